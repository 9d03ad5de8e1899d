
# ---- the API's types, made from its document ----

#: What an engine does for a task. `opaque` is a request that is passed to an engine as it is, and that no task of
#: this API asks for.
Workload = Literal["completion", "embedding", "rerank", "opaque"]

TaskWorkload = Literal["completion", "embedding", "rerank"]

Priority = Literal["interactive", "batch"]

#: `strict`: same fingerprint and request digest, same bytes. `best_effort` promises nothing.
Determinism = Literal["strict", "best_effort"]

TaskState = Literal["queued", "running", "completed", "failed", "canceled"]

Outcome = Literal["completed", "failed", "canceled"]

EngineName = Literal["llamacpp", "vllm", "tgi", "triton", "openai", "command"]

#: `Fetching` and `Failed` are of a model that is not there yet: no task can use it.
ModelState = Literal["Fetching", "Failed", "Active", "Retired"]

ArtifactKind = Literal["plan", "summary", "diff", "trace", "proof", "other"]

ErrorCode = Literal["INVALID_PARAMS", "DEADLINE_UNMET", "MISSING_TOKEN", "BAD_TOKEN", "UNTRUSTED_ARTIFACT", "POLICY_DENIED", "NOT_FOUND", "MODEL_NOT_FOUND", "METHOD_NOT_ALLOWED", "CONFLICT", "MODEL_DEPRECATED", "DELETED", "TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "ADMISSION_REJECT", "QUEUE_FULL_DROP_LRU", "RATE_LIMITED", "BUDGET_EXCEEDED", "INTERNAL", "NOT_IMPLEMENTED", "POOL_UNREADY", "POOL_UNAVAILABLE", "REPLICA_EXHAUSTED", "SHUTTING_DOWN", "LEDGER_UNAVAILABLE", "DECODE_TIMEOUT", "WORKER_RESET", "CANCELED"]

#: ready: a replica is Ready. loading: its workers start, or wait for memory or their next try. unloaded: its next
#: task loads it. fetching: its model is on its way to the disk. draining, drained: somebody took it out of
#: service, and `resume` brings it back. failed: it does not come back before somebody does what `last_error`
#: says, or before a longer wait.
PoolState = Literal["ready", "loading", "unloaded", "fetching", "draining", "drained", "failed"]

#: pending until the pool is Ready; skipped for a pool that is not loaded at the start, and for a step that does
#: not apply or that was not come to.
SelfTestState = Literal["pending", "passed", "failed", "skipped"]

#: A pinned pool is always loaded. One that is on demand is loaded when a task needs it and leaves when others
#: need its memory, or when it was idle for long.
Lifecycle = Literal["pinned", "on_demand"]

LogLevel = Literal["debug", "info", "warn", "error"]

#: `invalid` is also a signature by a key that is not among the trusted ones; `unchecked` one whose model is not
#: there yet.
SignatureState = Literal["missing", "valid", "invalid", "unchecked"]


class Error(TypedDict):
    # The one flat envelope.
    code: ErrorCode
    # What is wrong and what to do.
    message: str
    # Whether the same request may succeed later.
    retriable: bool
    # When to try again. On every 429.
    retry_after_ms: NotRequired[int]
    # The policy that refused, for a full queue `reject` or `drop-lru`. On every 429.
    policy_label: NotRequired[str]
    engine: NotRequired[str]
    pool_id: NotRequired[str]
    # What to look at. Begins with the numeric code for MISSING_TOKEN (40101) and BAD_TOKEN (40102).
    hint: NotRequired[str]
    # Of `/readyz` alone. What keeps each pool from running a task; without a pool, what keeps all of them.
    reasons: NotRequired[list[Reason]]


class Reason(TypedDict):
    pool_id: NotRequired[str]
    code: ErrorCode
    # What is wrong and what to do.
    message: str


class TaskRequest(TypedDict):
    model_ref: Model
    # Idempotency key. Default a UUIDv4.
    task_id: NotRequired[str]
    # `completion` takes exactly one of `prompt` and `messages`; `embedding` takes `inputs`, or `prompt` for a single
    # one; `rerank` takes `prompt` (the query) and `inputs` (the documents).
    workload: NotRequired[TaskWorkload]
    # Only pools of this engine. Default any.
    engine: NotRequired[EngineName]
    # The session this turn belongs to. Default none.
    session_id: NotRequired[str]
    priority: NotRequired[Priority]
    # The server takes as much as `limits` of `/v1/capabilities` says, prompt, messages and inputs together. More is
    # `TOO_LARGE`.
    prompt: NotRequired[str]
    # Turns of a chat, templated by the model's own template. Bounded like `prompt`, in number and in bytes.
    messages: NotRequired[list[Message]]
    # Functions that the model may call. What it calls is in `tool_call` events and in `end`; running them is up to
    # the client. Needs `messages`, as the next three do.
    tools: NotRequired[list[Tool]]
    # `auto`: the model calls tools or answers. `none`: it calls none. `required`: it calls at least one. The name of
    # one of `tools`: it calls that one.
    tool_choice: NotRequired[str]
    # Whether it may make several calls in one answer. Default as the model's template has it.
    parallel_tool_calls: NotRequired[bool]
    reasoning: NotRequired[Reasoning]
    # A JSON object of arguments for the model's chat template. Needs `messages`. Default none.
    template_args: NotRequired[Any]
    format: NotRequired[Format]
    # What is added to the logits of tokens, by their ids, before sampling. Default nothing.
    logit_bias: NotRequired[dict[str, float]]
    # Whether each token of the answer comes with how likely the model held it. Not with tools that may be called.
    # Default false.
    logprobs: NotRequired[bool]
    # How many of the likeliest tokens come beside it. Needs `logprobs`. Default 0.
    top_logprobs: NotRequired[int]
    # An ended task whose words are asked again: prompt, messages, tools, format and the like come from the server's
    # record of it, by whatever front it came. The request then has none of its own. How tokens are chosen, the seed
    # among it, is this request's. Default none.
    replay_of: NotRequired[str]
    # Texts to embed, or documents to rerank. Bounded like `prompt`, in number and in bytes.
    inputs: NotRequired[list[str]]
    # Default chosen at admission, recorded and returned.
    seed: NotRequired[int]
    params: NotRequired[Params]
    # A sampler profile of the configuration. Default the pool's.
    sampler_profile_version: NotRequired[str]
    # `strict` runs on single-slot replicas only and is refused where there are none. Default `strict` where the
    # pool's replicas have one slot, else `best_effort`; the answer says which it is.
    determinism: NotRequired[Determinism]
    # Default as many as the context still holds.
    max_tokens: NotRequired[int]
    # From admission; a task that cannot meet it is refused. Default none.
    deadline_ms: NotRequired[int]
    # Context the task needs, in tokens. Default the pool's.
    ctx: NotRequired[int]
    # The client's estimate of the answer, in tokens; it sharpens predictions. Default unknown.
    expected_tokens: NotRequired[int]
    placement: NotRequired[PlacementWish]
    # Whether reusing KV is wished. A strict task reuses only what changes no byte; with `cold` it starts cold.
    kv_hint: NotRequired[Literal["auto", "reuse", "cold"]]
    # What becomes of the task when its last stream goes away and none comes back within 5 s. `continue` runs on, and
    # the stream can be read later; `cancel` cancels it. A task that nobody ever read runs on.
    on_disconnect: NotRequired[Literal["continue", "cancel"]]
    # How the answer is given. Text is the only mode yet.
    output_mode: NotRequired[Literal["text"]]


class Message(TypedDict):
    role: Literal["system", "user", "assistant", "tool"]
    # A text, or parts. Only an assistant's message that calls tools may go without.
    content: NotRequired[Union[str, list[Part]]]
    # Of an assistant: what it thought before it answered.
    reasoning: NotRequired[str]
    # Of an assistant, whole, as `end` gave them.
    tool_calls: NotRequired[list[ToolCall]]
    # Of a tool: the `id` of the call whose result this is. Needed there.
    tool_call_id: NotRequired[str]


class Part(TypedDict):
    # A `text`, which needs `text`, or an `image`, which needs `media_type` and `data`. Texts that follow each other
    # are one text; images come from users and tools.
    type: Literal["text", "image"]
    text: NotRequired[str]
    # What the image's file is. It is checked.
    media_type: NotRequired[Literal["image/png", "image/jpeg", "image/webp", "image/gif"]]
    # The image's file in base64. It counts towards the limit of a body, and as its bytes towards that of a prompt.
    data: NotRequired[str]


class ToolCall(TypedDict):
    id: str
    name: str
    # A JSON object as text, if the model wrote one.
    arguments: str


class Tool(TypedDict):
    name: str
    description: NotRequired[str]
    # A JSON schema, an object. Default no parameters.
    parameters: NotRequired[Any]


class Format(TypedDict):
    # `json_object`: any JSON object. `json_schema`: JSON that fits `schema`. `grammar`: a text of `grammar`.
    type: Literal["json_object", "json_schema", "grammar"]
    # A JSON schema, an object.
    schema: NotRequired[Any]
    # In GBNF.
    grammar: NotRequired[str]


class Reasoning(TypedDict):
    # What is wanted of a model that thinks before it answers. Where the model cannot do it, it is passed over.
    # Whether the thinking comes in events of its own (`channel: reasoning`).
    split: NotRequired[bool]
    # Whether the model thinks. Default as its template has it.
    enabled: NotRequired[bool]
    # A word for the model's template, such as `low`. Default none.
    effort: NotRequired[str]
    # Tokens of thinking at most. Default no bound.
    budget: NotRequired[int]


class Params(TypedDict):
    # Sampling. A missing value is the sampler profile's.
    temperature: NotRequired[float]
    top_p: NotRequired[float]
    # 0 switches it off.
    top_k: NotRequired[int]
    min_p: NotRequired[float]
    repeat_penalty: NotRequired[float]
    # Texts that end the answer; they are not part of it. Default none.
    stop: NotRequired[list[str]]


class PlacementWish(TypedDict):
    # `pin`: this pool or a typed refusal, never another. `prefer`: this pool if it can. `auto`: any. `pin` and
    # `prefer` need `pool_id`.
    mode: NotRequired[Literal["auto", "prefer", "pin"]]
    pool_id: NotRequired[PoolID]
    # Pools not to use. Default none.
    avoid: NotRequired[list[PoolID]]


class Admission(TypedDict):
    task_id: str
    pool_id: PoolID
    # Tasks ahead, from 0.
    queue_position: int
    # From admission.
    predicted_start_ms: int
    # How long to wait before the next submit.
    backoff_ms: int
    seed: int
    determinism: Determinism


class TaskStatus(TypedDict):
    task_id: str
    state: TaskState
    pool_id: PoolID
    engine: str
    workload: Workload
    priority: Priority
    model_ref: str
    # Who sent it: `localhost`, `token:` and six digits of the token's SHA-256, or `self-test`.
    actor: NotRequired[str]
    # Missing until dispatched.
    replica_id: NotRequired[str]
    # Tasks ahead now; 0 once dispatched.
    queue_position: int
    predicted_start_ms: int
    seed: int
    determinism: Determinism
    accepted_at: str
    # Of the first dispatch, also where the task was run again.
    started_at: NotRequired[str]
    finished_at: NotRequired[str]
    # When it was deleted. Only in lists: such a task has no `last_event_id` and no `end`.
    deleted_at: NotRequired[str]
    tokens_in: int
    tokens_out: int
    # Joules that the cards took for the task, however it ended. Left out where that is not known.
    energy_j: NotRequired[float]
    # What these cost, at the configured price of electricity. Left out where there is none.
    energy_cost: NotRequired[float]
    last_event_id: NotRequired[str]
    end: NotRequired[EndEvent]
    error: NotRequired[Error]


class TaskList(TypedDict):
    tasks: list[TaskStatus]


class CancelResult(TypedDict):
    task_id: str
    outcome: Outcome
    # For a canceled task the last event before `error`, for any other the log's last.
    last_event_id: str


class StartedEvent(TypedDict):
    # Event 0, the snapshot taken at admission; it never changes.
    task_id: str
    queue_position: int
    predicted_start_ms: int
    seed: int
    determinism: Determinism


class TokenEvent(TypedDict):
    # Text, whole runes.
    t: str
    # Counts token events, from 0.
    i: int
    # What the text is of: the thinking before the answer. Left out in the answer.
    channel: NotRequired[Literal["reasoning"]]
    # The tokens of the answer that begin in the text, where the task asked for `logprobs`.
    logprobs: NotRequired[list[Logprob]]


class Logprob(TypedDict):
    # A token, and how likely the model held it before biases, penalties, filters and temperature.
    # Its text. U+FFFD stands for bytes that are no rune.
    token: str
    # The natural logarithm of its probability; -9999 for 0.
    logprob: float
    bytes: list[int]
    # The likeliest tokens at its place, the likeliest first, as many as `top_logprobs` of the task asked for.
    top_logprobs: list[Likely]


class Likely(TypedDict):
    # One of the likeliest tokens.
    # As in Logprob.
    token: str
    # As in Logprob.
    logprob: float
    bytes: list[int]


class ToolCallEvent(TypedDict):
    # A piece of a call of a tool.
    # Which call of the task it is of, from 0.
    n: int
    # Of the call, in its first piece.
    id: NotRequired[str]
    # Of the tool, in the call's first piece.
    name: NotRequired[str]
    # Whole runes. All pieces of a call together are its arguments, JSON if the model wrote JSON.
    arguments: str


class MetricsEvent(TypedDict):
    # Moving figures, at most one frame a second; not part of the log.
    # loading is queued while the pool's model is on its way into memory.
    phase: Literal["queued", "loading", "prefill", "decode", "moving"]
    # How far the fetch of the model is, by its bytes, or else the load, by the time earlier ones took; only in phase
    # loading.
    load_progress: NotRequired[float]
    queue_depth: int
    queue_position: int
    predicted_start_ms: int
    on_time_probability: float
    # Whether the session's KV cache was there.
    kv_warmth: bool
    # How often the task moved to another worker; left out while it did not.
    failover: NotRequired[int]
    budget_tokens_remaining: NotRequired[int]
    budget_time_remaining_ms: NotRequired[int]
    budget_cost_remaining: NotRequired[float]
    budget_joules_remaining: NotRequired[float]


class EndEvent(TypedDict):
    tokens_in: int
    # The number of `token` and `tool_call` events.
    tokens_out: int
    decode_time_ms: int
    # `stop`: end of sequence or a stop text. `length`: max_tokens, or the context is full. `tool_calls`: the model
    # called tools. `result`: an embedding or rerank answered.
    finish_reason: Literal["stop", "length", "tool_calls", "result"]
    # The calls of tools, whole, in the order in which they began. Left out where there are none.
    tool_calls: NotRequired[list[ToolCall]]
    # The answer of an embedding or rerank task, as its workload defines it.
    result: NotRequired[Any]
    receipt: Receipt
    # Joules that the cards took for the task, by their own counters, shared with what else they computed. Left out
    # where that is not known.
    energy_j: NotRequired[float]
    # What these cost, at the configured price of electricity. Left out where there is none.
    energy_cost: NotRequired[float]


class Receipt(TypedDict):
    # What the stream's bytes depend on, and what they are.
    seed: int
    determinism: Determinism
    # Facts of the replica that can change bytes.
    fingerprint: str
    # Prompt after templating, resolved parameters, sampler profile, seed, max_tokens.
    request_digest: str
    # SHA-256, in hex, of what was generated, as `transcript_form` says.
    transcript_sha256: str
    # `text`: over the concatenated UTF-8 of all `t`. `parts`, where there was reasoning or a call: over
    # `llorch-transcript-2` and a line feed, then each part, which is a byte for its kind, its length as 8 bytes with
    # the highest first, and its UTF-8. The parts are the answer (`a`), the reasoning (`r`), and of each call its id
    # (`i`), its name (`n`) and its arguments (`j`). Left out by earlier versions, for `text`.
    transcript_form: NotRequired[Literal["text", "parts"]]
    # Of a `best_effort` task whose worker was lost in the middle of it: the numbers of the events with which another
    # one went on behind what had been sent. Fingerprint, replica and versions are those of the last one. Left out
    # where there was none.
    continued_at: NotRequired[list[int]]
    replica_id: str
    engine_version: str
    model_digest: str
    # Tokens of the prompt that came from the KV of an earlier one. That changes no byte of a strict task. Left out
    # where there are none.
    tokens_cached: NotRequired[int]


class ErrorEvent(TypedDict):
    # Ends the stream.
    code: ErrorCode
    message: str
    retriable: bool
    retry_after_ms: NotRequired[int]
    # The policy that ended the task, such as `drop-lru`.
    policy_label: NotRequired[str]
    engine: NotRequired[str]
    pool_id: NotRequired[str]
    hint: NotRequired[str]


class Session(TypedDict):
    session_id: str
    # Where the last turn ran. Missing before the first one.
    pool_id: NotRequired[PoolID]
    replica_id: NotRequired[str]
    turns: int
    max_turns: int
    # 0 once it takes no more tasks.
    ttl_remaining_ms: int
    # Whether the engine's slot still holds what the last turn left there.
    kv_warmth: bool
    # What that takes, where the engine tells it.
    kv_bytes: NotRequired[int]
    budget_tokens_remaining: NotRequired[int]
    budget_time_remaining_ms: NotRequired[int]
    budget_cost_remaining: NotRequired[float]
    budget_joules_remaining: NotRequired[float]
    created_at: str


class SessionRequest(TypedDict):
    # Chosen by the server when left out.
    session_id: NotRequired[str]
    # Default the configured one.
    ttl_ms: NotRequired[int]
    # Default the configured one.
    max_turns: NotRequired[int]
    budget: NotRequired[Budget]


class Budget(TypedDict):
    # What is left out is as configured.
    # In and out together.
    tokens: NotRequired[int]
    # Of decoding.
    time_ms: NotRequired[int]
    # At the prices of the configuration.
    cost: NotRequired[float]
    # That cards take for tasks, as far as that is known.
    joules: NotRequired[float]


class PoolModel(TypedDict):
    id: str
    # Normalised.
    ref: str
    digest: NotRequired[str]


class CapabilityPool(TypedDict):
    id: PoolID
    engine: str
    # Empty until a replica was ready.
    engine_version: str
    model: PoolModel
    workload: Workload
    ctx: int
    slots: int
    features: NotRequired[list[Literal["tools", "formats", "grammars", "images", "reasoning", "template_arguments", "logit_bias", "logprobs"]]]
    # The paths of opaque requests that the pool takes; one that ends with `*` stands for all that begin so. Missing
    # where it takes tasks.
    routes: NotRequired[list[str]]
    # The engine computes on several hosts, as the configuration says. Missing where it does not.
    span: NotRequired[bool]
    # Strict tasks reuse the beginning of an earlier prompt in whole pieces of so many tokens, which changes no byte.
    # Left out where they start cold.
    reuse_piece: NotRequired[int]
    replicas: int
    replicas_ready: int


class Capabilities(TypedDict):
    api_version: str
    server_version: str
    pools: list[CapabilityPool]
    limits: Limits
    features: list[str]
    gpus: list[GPU]
    operations: list[Operation]


class Limits(TypedDict):
    # The limits in force. The first four are settings of the server (`limits`).
    # Of a request's body, as it is decoded. More is `TOO_LARGE`.
    max_body_bytes: int
    # Of prompt, messages and inputs together, in bytes of UTF-8. More is `TOO_LARGE`.
    max_prompt_bytes: int
    # More is `TOO_LARGE`.
    max_messages: int
    # More is `TOO_LARGE`.
    max_inputs: int
    # More is `INVALID_PARAMS`.
    max_stop: int
    # More is `INVALID_PARAMS`.
    max_seed: int
    # More is `INVALID_PARAMS`.
    max_deadline_ms: int


class Operation(TypedDict):
    id: str
    method: str
    path: str
    plane: Literal["data", "control", "catalog", "artifacts", "ops"]
    status: Literal["live", "not_implemented"]


class Pool(TypedDict):
    id: PoolID
    state: PoolState
    # How far the pool has come, where it loads or fetches and somebody can tell.
    progress: NotRequired[float]
    engine: str
    # Empty until a replica was ready.
    engine_version: str
    model: PoolModel
    workload: Workload
    device: str
    ctx: int
    # Per replica.
    slots: int
    sampler_profile: str
    # At least one replica is Ready and the pool is not draining.
    ready: bool
    draining: bool
    lifecycle: Lifecycle
    # An on-demand pool that is not loaded is loaded by its next task.
    loaded: bool
    last_error: NotRequired[str]
    self_test: NotRequired[SelfTest]
    features: NotRequired[list[Literal["tools", "formats", "grammars", "images", "reasoning", "template_arguments", "logit_bias", "logprobs"]]]
    # The paths of opaque requests that the pool takes; one that ends with `*` stands for all that begin so. Missing
    # where it takes tasks.
    routes: NotRequired[list[str]]
    replicas: int
    replicas_ready: int
    queue: Queue


class PoolStanding(TypedDict):
    pool_id: PoolID
    state: PoolState
    running: int
    queued: int


class SelfTest(TypedDict):
    # What the test at the start found of this pool. Missing where none is made.
    state: SelfTestState
    # A sentence.
    detail: str
    # In the order in which they are taken.
    steps: list[SelfTestStep]


class SelfTestStep(TypedDict):
    # The model was loaded; a task was decoded; one was canceled; the metrics counted both; the log has their lines.
    step: Literal["preload", "decode", "cancel", "metrics", "log"]
    state: SelfTestState


class Queue(TypedDict):
    depth: int
    interactive: int
    batch: int
    capacity: int
    full_policy: Literal["reject", "drop-lru"]


class PoolList(TypedDict):
    pools: list[Pool]


class PoolHealth(TypedDict):
    pool: Pool
    replicas: list[Replica]
    # The GPUs of the pool's device mask.
    gpus: list[GPU]


class Replica(TypedDict):
    id: str
    state: Literal["provisioning", "loading", "probing", "ready", "backoff", "draining", "stopped", "failed"]
    restarts: int
    # Empty until ready once.
    fingerprint: str
    engine_version: str
    device: str
    slots: int
    # Tasks on it now.
    active: int
    # Context of a slot, in tokens; missing until known. Replicas of one pool on unequal cards may differ.
    ctx: NotRequired[int]
    # The GPUs it sits on, by index; empty for one on the CPU.
    cards: list[int]
    # Memory it was expected to take.
    estimate_bytes: NotRequired[int]
    # Memory it was seen to take; missing until seen.
    observed_bytes: NotRequired[int]
    # The other hosts that compute a part, and what its worker has said of them.
    hosts: NotRequired[list[RPCHost]]
    # How long its last start took.
    load_ms: NotRequired[int]
    # How far its worker is with its load, as the engine's output tells; missing where it does not, and where nothing
    # loads.
    progress: NotRequired[str]
    last_error: NotRequired[str]
    # The worker's last lines, oldest first.
    log_tail: list[str]


class Fingerprint(TypedDict):
    id: str
    # When a replica with it got ready last.
    seen_at: str
    # The replicas that have it now.
    replicas: list[str]
    facts: Facts


class Facts(TypedDict):
    # All that can change a replica's bytes.
    engine: str
    # As the engine says.
    build: str
    # What the engine says of the processor.
    system: str
    # Of the program and the libraries that its process has loaded, or of the container's image.
    engine_digest: str
    model_digest: str
    # The class of hardware; of an engine elsewhere its address.
    device: str
    threads: int
    ctx: int
    slots: int
    # 0: the engine's own.
    batch: int
    # What else the engine was told, in order.
    flags: list[str]
    # The digests of the files that the flags name.
    files: NotRequired[list[str]]
    # Of an engine that was prepared.
    build_ref: NotRequired[str]
    build_flags: NotRequired[list[str]]


class RPCHost(TypedDict):
    host: str
    # Memory that was free there when the worker loaded; missing where it was not told.
    free_bytes: NotRequired[int]
    # Memory that the worker took there; missing where it was not told.
    used_bytes: NotRequired[int]


class GPU(TypedDict):
    index: int
    uuid: str
    name: str
    driver_version: str
    healthy: bool
    last_error: NotRequired[str]
    vram_total_bytes: int
    vram_used_bytes: int
    # Held by other programs.
    vram_other_bytes: int
    # Promised to starting workers.
    vram_promised_bytes: int
    # What a further worker may be promised.
    vram_free_bytes: int
    utilization: float
    temperature_c: NotRequired[int]
    power_w: NotRequired[float]
    # Joules since the driver was loaded, by the card's own counter. Left out where it has none.
    energy_j: NotRequired[float]
    # The replicas on this GPU, and other programs.
    holders: list[VRAMHolder]


class VRAMHolder(TypedDict):
    # Missing for a program that is not the orchestrator's.
    replica_id: NotRequired[str]
    pid: NotRequired[int]
    used_bytes: int
    promised_bytes: int


class GPUList(TypedDict):
    # Missing without a driver.
    driver_version: NotRequired[str]
    cuda_version: NotRequired[str]
    # Why no GPU can be used, and what to do.
    problem: NotRequired[str]
    gpus: list[GPU]


class HostList(TypedDict):
    hosts: list[Host]


class Host(TypedDict):
    # Of its data folder.
    id: str
    name: str
    # The URL by which the others and clients reach it. Missing where it has announced none.
    address: NotRequired[str]
    version: str
    # It is the server that answers.
    here: bool
    # Its lease runs.
    up: bool
    # When it started.
    since: str
    # When it was last heard of.
    seen_at: str
    pools: list[HostPool]


class HostPool(TypedDict):
    pool_id: PoolID
    engine: EngineName
    model_id: str
    # Missing until its first replica was ready, and for engines that do not tell.
    model_digest: NotRequired[str]
    # The pool's queue is this host's. Else it stands by, and takes over when the one that holds it is gone.
    holds: bool


class DrainRequest(TypedDict):
    deadline_ms: int


class DrainStatus(TypedDict):
    pool_id: PoolID
    draining: bool
    running: int
    queued: int
    deadline_ms: int


class ReloadRequest(TypedDict):
    new_model_ref: str


class ReloadResult(TypedDict):
    pool_id: PoolID
    model: PoolModel
    previous_model_ref: str
    took_ms: int


class ExplainRequest(TypedDict):
    model_ref: Model
    workload: NotRequired[TaskWorkload]
    engine: NotRequired[EngineName]
    session_id: NotRequired[str]
    determinism: NotRequired[Determinism]
    ctx: NotRequired[int]
    placement: NotRequired[PlacementWish]


class Explanation(TypedDict):
    # Missing where nothing fits.
    pool_id: NotRequired[PoolID]
    replica_id: NotRequired[str]
    candidates: list[Candidate]
    evictions: list[Eviction]


class Candidate(TypedDict):
    pool_id: PoolID
    replica_id: NotRequired[str]
    chosen: bool
    reasons: list[str]
    active: NotRequired[int]
    vram_free_bytes: NotRequired[int]


class Eviction(TypedDict):
    pool_id: PoolID
    replica_id: str
    frees_bytes: int


class ConfigReloadResult(TypedDict):
    changed: list[str]
    # Changes in the file that take effect at the next start only.
    restart_required: list[str]


class LogLine(TypedDict):
    # A line of the log. What else it says is in further fields.
    ts: str
    # A LogLevel, or one that is graver.
    level: str
    # The part of the server that says it.
    logger: NotRequired[str]
    msg: str
    # The same as a sentence, of the five events of a task.
    human: NotRequired[str]
    # The task that it is about, if any.
    job_id: NotRequired[str]
    # The task's id as a person tells it from others: short.
    task: NotRequired[str]
    pool_id: NotRequired[str]


class LogGap(TypedDict):
    # How many lines the client has missed here.
    lines: int


class WorkerRegistration(TypedDict):
    worker_id: str
    pool_id: PoolID
    url: str
    engine: EngineName
    engine_version: str
    model_digest: str
    fingerprint: str
    # Default unknown.
    device: NotRequired[str]
    slots: int
    ctx: int


class WorkerLease(TypedDict):
    worker_id: str
    replica_id: str
    lease_ms: int


class ModelRequest(TypedDict):
    # Default made from the ref.
    id: NotRequired[str]
    # `hf:org/repo/path.gguf`, `hf:org/repo`, `file:` or a relative path, `https:`, `s3:`, `oci:`.
    ref: str
    # Checked when given. Default unknown.
    digest: NotRequired[str]
    # A minisign signature, the text of its `.minisig` file in base64. Default none.
    signature: NotRequired[str]
    # Where the model's bill of materials is. It is kept and shown, and never opened. Default none.
    sbom: NotRequired[str]
    # How long the answer may wait for the model to be there.
    wait_ms: NotRequired[int]


class CatalogModel(TypedDict):
    id: str
    # Normalised.
    ref: str
    # Of the bytes on the disk; before they are there, the one that was given, or empty.
    digest: str
    # What the last check against digest and signature found. A model that is not verified is not used.
    verified: bool
    state: ModelState
    size_bytes: int
    signature: SignatureState
    warnings: list[str]
    sbom: NotRequired[str]
    metadata: NotRequired[ModelMetadata]
    progress: NotRequired[FetchProgress]
    problem: NotRequired[ModelProblem]
    # When the pools of a retired model drain.
    drain_by: NotRequired[str]
    created_at: str
    verified_at: NotRequired[str]


class ModelMetadata(TypedDict):
    # What the model's file says of itself. Absent where its format is not known.
    format: Literal["gguf"]
    architecture: str
    name: NotRequired[str]
    parameters: int
    # Of most of its weights.
    quantisation: str
    # The longest context that it was made for, in tokens; 0: it does not say.
    ctx_max: int
    features: list[Literal["chat_template", "embedding", "experts"]]


class FetchProgress(TypedDict):
    done_bytes: int
    # 0: not known yet.
    total_bytes: int


class ModelProblem(TypedDict):
    # Why the model failed, or what the last check found.
    code: ErrorCode
    message: str


class ModelList(TypedDict):
    models: list[CatalogModel]


class ModelStateRequest(TypedDict):
    state: Literal["Active", "Retired"]
    # How long tasks on a retired model may still run.
    deadline_ms: NotRequired[int]


class Verification(TypedDict):
    model_id: str
    digest: str
    verified: bool
    signature: SignatureState
    warnings: list[str]
    verified_at: str


class PreparedEngine(TypedDict):
    engine: str
    version: str
    mode: Literal["builtin", "external", "binary", "package", "container", "source"]
    build_ref: str
    digest: str
    flags: list[str]
    path: str
    prepared_at: str


class EngineList(TypedDict):
    engines: list[PreparedEngine]


class ArtifactRequest(TypedDict):
    kind: ArtifactKind
    media_type: NotRequired[str]
    # The server takes as much as its `artifacts.max_bytes`, and its limit for a body, allow. More is `TOO_LARGE`.
    content: str
    # How `content` spells the bytes.
    encoding: NotRequired[Literal["utf-8", "base64"]]
    # The task it belongs to. Default none.
    task_id: NotRequired[str]
    # The artifact that it was made from, which must be there. Default none.
    parent: NotRequired[str]
    tags: NotRequired[list[str]]
    metadata: NotRequired[list[ArtifactNote]]


class ArtifactNote(TypedDict):
    key: str
    value: str


class Artifact(TypedDict):
    id: str
    kind: ArtifactKind
    media_type: str
    size_bytes: int
    task_id: NotRequired[str]
    parent: NotRequired[str]
    tags: NotRequired[list[str]]
    metadata: NotRequired[list[ArtifactNote]]
    created_at: str
    # Reachable from another box.
    url: str


class ArtifactList(TypedDict):
    artifacts: list[Artifact]


class Health(TypedDict):
    status: Literal["ok", "ready"]


class StartedFrame(NamedTuple):
    id: str
    data: StartedEvent
    name: Literal["started"] = "started"


class TokenFrame(NamedTuple):
    id: str
    data: TokenEvent
    name: Literal["token"] = "token"


class ToolCallFrame(NamedTuple):
    id: str
    data: ToolCallEvent
    name: Literal["tool_call"] = "tool_call"


class MetricsFrame(NamedTuple):
    id: str
    data: MetricsEvent
    name: Literal["metrics"] = "metrics"


class EndFrame(NamedTuple):
    id: str
    data: EndEvent
    name: Literal["end"] = "end"


#: An event of a task's stream. `metrics` has no id.
Event = Union[StartedFrame, TokenFrame, ToolCallFrame, MetricsFrame, EndFrame]
_EVENTS: Final[dict[str, Any]] = {"started": StartedFrame, "token": TokenFrame, "tool_call": ToolCallFrame, "metrics": MetricsFrame, "end": EndFrame}
