
// ---- the client ----

type Schemas = components["schemas"];

/** An event of a task's stream. `metrics` has no id. */
export type TaskEvent =
  | { name: "started"; id: string; data: Schemas["StartedEvent"] }
  | { name: "token"; id: string; data: Schemas["TokenEvent"] }
  | { name: "tool_call"; id: string; data: Schemas["ToolCallEvent"] }
  | { name: "metrics"; id: string; data: Schemas["MetricsEvent"] }
  | { name: "end"; id: string; data: Schemas["EndEvent"] };

/** The server refused, or the task ended without an answer. */
export class APIError extends Error {
  readonly code: Schemas["ErrorCode"];
  readonly retriable: boolean;
  /** When to try again; undefined: the server names no time. */
  readonly retryAfterMs: number | undefined;

  /** status is of HTTP; 0 for a stream's last event. */
  constructor(readonly envelope: Schemas["Error"], readonly status = 0) {
    super(`${envelope.code}: ${envelope.message}`);
    this.code = envelope.code;
    this.retriable = envelope.retriable;
    this.retryAfterMs = envelope.retry_after_ms;
  }
}

/** Something answered, but not with this API, or with events that are not in order. */
export class ProtocolError extends Error {}

export interface Options {
  /** Default http://127.0.0.1:8080. */
  addr?: string;
  token?: string;
  /** How often a broken stream is asked for again, counted from its last event. Default 8. */
  reconnects?: number;
  /** The wait before the first of these, in milliseconds; it doubles each time. Default 250. */
  delayMs?: number;
  /** How long a stream may be silent before its connection counts as broken. Default a minute. */
  idleMs?: number;
}

export interface StreamOptions {
  /** The id of the last event that the caller has. Default: from the start. */
  after?: string;
  signal?: AbortSignal;
}

/**
 * A client of one server. `api` has every operation, by method and path, and answers with `data` or with `error`, both typed:
 *
 *     const llama = new Client();
 *     const { data, error } = await llama.api.GET("/v1/pools");
 *     for await (const event of llama.run({ model_ref: models[0], prompt: "Why is the sky blue?" })) {
 *       if (event.name === "token") process.stdout.write(event.data.t);
 *       if (event.name === "end") console.log(event.data.receipt.transcript_sha256);
 *     }
 */
export class Client {
  readonly api: FetchClient<paths>;
  readonly #addr: string;
  readonly #headers: Record<string, string>;
  readonly #reconnects: number;
  readonly #delayMs: number;
  readonly #idleMs: number;

  constructor({ addr = "http://127.0.0.1:8080", token = "", reconnects = 8, delayMs = 250, idleMs = 60_000 }: Options = {}) {
    this.#addr = addr.replace(/\/+$/, "");
    this.#headers = token ? { Authorization: `Bearer ${token}` } : {};
    this.#reconnects = reconnects;
    this.#delayMs = delayMs;
    this.#idleMs = idleMs;
    this.api = createFetch<paths>({ baseUrl: this.#addr, headers: this.#headers, redirect: "error" });
  }

  /** Submits a task and reads its stream. A loop that is left before the end, or a signal, cancels the task. */
  async *run(body: Schemas["TaskRequest"], { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<TaskEvent, void, undefined> {
    const { data, error, response } = await this.api.POST("/v1/tasks", { body, signal });
    if (error) throw new APIError(error, response.status);
    if (!data) throw new ProtocolError("the answer to a task is empty");
    let left = true;
    try {
      yield* this.stream(data.task_id, { signal });
      left = false;
    } catch (e) {
      left = signal?.aborted ?? false;
      throw e;
    } finally {
      if (left) await this.api.POST("/v1/tasks/{id}/cancel", { params: { path: { id: data.task_id } } });
    }
  }

  /**
   * A task's events, live or again. A connection that breaks is made again. The last event has the receipt. A task that ends without an answer throws its
   * APIError, also one that is canceled (CANCELED).
   */
  async *stream(id: string, { after = "", signal }: StreamOptions = {}): AsyncGenerator<TaskEvent, void, undefined> {
    let last = after;
    let next = after ? Number.parseInt(after, 10) + 1 : 0;
    let connected = false;
    for (let tries = 0; ; tries++) {
      let broken: unknown = new Error(`the stream of task ${id} broke off after event ${last || "none"}`);
      const idle = new AbortController();
      const both = signal ? AbortSignal.any([signal, idle.signal]) : idle.signal;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const awake = () => {
        clearTimeout(timer);
        timer = setTimeout(() => idle.abort(new Error("the stream was silent for too long")), this.#idleMs);
      };
      try {
        awake();
        const headers = { Accept: "text/event-stream", ...this.#headers, ...(last && { "Last-Event-ID": last }) };
        const response = await fetch(`${this.#addr}/v1/tasks/${encodeURIComponent(id)}/stream`, { headers, signal: both, redirect: "error" });
        if (!response.ok) throw await refused(response);
        connected = true;
        if (response.status === 204 || !response.body) return; // nothing follows the event that the caller has
        for await (const frame of frames(response.body, awake)) {
          clearTimeout(timer); // the caller may take its time
          if (frame.id && !frame.id.startsWith("999999999999999999-")) {
            if (Number.parseInt(frame.id, 10) !== next) throw new ProtocolError(`event ${frame.id} came where number ${next} was next`);
            next++;
            tries = 0;
            last = frame.id;
          }
          if (frame.name === "error") throw new APIError(JSON.parse(frame.data) as Schemas["Error"]);
          if (names.has(frame.name)) yield { name: frame.name, id: frame.id, data: JSON.parse(frame.data) } as TaskEvent;
          if (frame.name === "end") return;
          awake();
        }
      } catch (e) {
        broken = e;
      } finally {
        clearTimeout(timer);
        idle.abort(); // ends the connection, also where the caller has left the loop
      }
      const refusal = broken instanceof APIError ? broken : undefined;
      const passing = refusal ? refusal.retriable && [429, 503].includes(refusal.status) : !(broken instanceof ProtocolError || broken instanceof SyntaxError);
      const asked = refusal?.retryAfterMs ?? 0;
      if (!connected || !passing || signal?.aborted || asked > 60_000 || tries >= this.#reconnects) throw broken;
      const wait = Math.min(this.#delayMs * 2 ** tries, 30 * this.#delayMs) * (0.5 + Math.random());
      await new Promise((resolve) => setTimeout(resolve, Math.max(asked, wait)));
    }
  }
}

const names = new Set(["started", "token", "tool_call", "metrics", "end"]);

/** A refusal that came with fetch, as an error. */
async function refused(response: Response): Promise<Error> {
  const envelope = (await response.json().catch(() => null)) as Schemas["Error"] | null;
  return envelope?.code ? new APIError(envelope, response.status) : new ProtocolError(`the answer has the HTTP status ${response.status}, and is not of this API`);
}

async function* frames(body: ReadableStream<Uint8Array>, awake: () => void): AsyncGenerator<{ id: string; name: string; data: string }, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let frame = { id: "", name: "", data: [] as string[] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    awake();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const at = line.indexOf(":");
      const field = at < 0 ? line : line.slice(0, at);
      const text = at < 0 ? "" : line.slice(line[at + 1] === " " ? at + 2 : at + 1);
      if (line === "") {
        if (frame.data.length > 0) yield { id: frame.id, name: frame.name, data: frame.data.join("\n") };
        frame = { id: "", name: "", data: [] };
      } else if (field === "id") frame.id = text;
      else if (field === "event") frame.name = text;
      else if (field === "data") frame.data.push(text);
    }
  }
}
