// SPDX-License-Identifier: GPL-3.0-or-later

// Package config reads the one YAML file strictly. It refuses what it does not know, and names the place, the reason and the remedy, for all
// mistakes of a file at once (HME-003). The struct tags here are the only source of the fields' defaults and bounds: a JSON Schema is
// generated from them, and the reader checks against that schema (OC-CONFIG-6010).
package config

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Config is a valid configuration with every default filled in.
type Config struct {
	BindAddr        string                    `yaml:"bind_addr" jsonschema:"default=127.0.0.1:8080" jsonschema_description:"Address and port to listen on. LLORCH_BIND_ADDR overrides it. An address that other machines can reach needs an API token."`
	DataDir         string                    `yaml:"data_dir" jsonschema:"default=~/.local/state/llama-orch,minLength=1" jsonschema_description:"Folder of the durable state. LLORCH_DATA_DIR overrides it. A relative path is relative to this file's folder."`
	Auth            Auth                      `yaml:"auth" jsonschema_description:"Who may call the API."`
	TLS             TLS                       `yaml:"tls" jsonschema_description:"TLS on bind_addr, with a certificate of yours. Left out: plain HTTP."`
	Announce        Announce                  `yaml:"announce" jsonschema_description:"Whether this server can be found on the local network. It cannot by default."`
	Fronts          Fronts                    `yaml:"fronts" jsonschema_description:"Which dialects are served beside the native API, and how. A list alone names the dialects."`
	Page            string                    `yaml:"page" jsonschema:"default=on,enum=on,enum=off" jsonschema_description:"The status page, which browsers get at /."`
	Aliases         map[string]Alias          `yaml:"aliases" jsonschema_description:"Further names of models. The name * stands for every name that nothing else has. A model's name alone stands for the whole entry."`
	CORS            CORS                      `yaml:"cors" jsonschema_description:"Which web pages of other origins may read answers of the API."`
	Log             Log                       `yaml:"log" jsonschema_description:"The log on standard error."`
	Limits          Limits                    `yaml:"limits" jsonschema_description:"Bounds on what one request may bring."`
	Rates           Rates                     `yaml:"rates" jsonschema_description:"How many tasks each API token may send, by priority. Beyond that a task is refused with 429."`
	Sessions        Sessions                  `yaml:"sessions" jsonschema_description:"How long a session lives, and how many there are. POST /v1/sessions can ask for another time and number of turns."`
	Budgets         Budgets                   `yaml:"budgets" jsonschema_description:"What tasks may take together. Beyond that they are refused with 429."`
	Energy          Energy                    `yaml:"energy" jsonschema_description:"What electricity costs, for the cost of what the cards take for tasks. Only cards with a counter of their own tell that."`
	Ledger          Ledger                    `yaml:"ledger" jsonschema_description:"The record of tasks in the data folder. Tasks without an outcome are always kept."`
	Hosts           Hosts                     `yaml:"hosts" jsonschema_description:"How this server shows itself to others whose record is in the same database."`
	Tracing         Tracing                   `yaml:"tracing" jsonschema_description:"Traces of tasks for an OpenTelemetry collector. Off by default."`
	Stream          Stream                    `yaml:"stream" jsonschema_description:"How events are sent."`
	Policy          Policy                    `yaml:"policy" jsonschema_description:"Which calls may leave this machine: downloads, and engines on other machines."`
	Catalog         Catalog                   `yaml:"catalog" jsonschema_description:"Where models come from, and which are trusted."`
	Artifacts       Artifacts                 `yaml:"artifacts" jsonschema_description:"What tasks leave behind: plans, diffs, traces, and a proof bundle of each task."`
	Swap            Swap                      `yaml:"swap" jsonschema_description:"How long a task for an on-demand pool waits while other models are in memory."`
	Provision       Provision                 `yaml:"provision" jsonschema_description:"What preparing engines may do to this machine."`
	SamplerProfiles map[string]SamplerProfile `yaml:"sampler_profiles" jsonschema_description:"Named sets of sampling parameters. The profile default always exists, with the documented defaults, and may be redefined."`
	Pools           []Pool                    `yaml:"pools" jsonschema:"required,minItems=1,maxItems=32" jsonschema_description:"The pools: each is one model, one queue, one engine kind and a set of replicas."`

	Path  string `yaml:"-"` // the file's path, as given
	Dir   string `yaml:"-"` // the file's folder, absolute: relative refs and paths start here
	Token Secret `yaml:"-"` // the API token, from the variable that auth.token_env names; empty: not set

	home  string
	where *positions
}

// Auth says who may call the API (AUTH-1001…1008).
type Auth struct {
	TokenEnv           string `yaml:"token_env" jsonschema:"default=LLORCH_API_TOKEN,pattern=^[A-Za-z_][A-Za-z0-9_]*$" jsonschema_description:"Name of the environment variable that holds the API token. The token itself is never in this file."`
	OptionalOnLoopback bool   `yaml:"optional_on_loopback" jsonschema:"default=false" jsonschema_description:"Let callers on this machine in without a token."`
}

// TLS names a certificate and its key (LO-640).
type TLS struct {
	Cert string `yaml:"cert" jsonschema_description:"PEM file with the certificate, followed by those between it and the root. A relative path is relative to this file's folder. It is read again when it has changed."`
	Key  string `yaml:"key" jsonschema_description:"PEM file with the certificate's key."`
}

// Announce says whether the server can be found by multicast DNS (LO-642).
type Announce struct {
	MDNS bool   `yaml:"mdns" jsonschema:"default=false" jsonschema_description:"Announce this server by multicast DNS, as a service of type _llama-orch._tcp; llama-orch discover finds it then. bind_addr has to be an address that other machines reach."`
	Name string `yaml:"name" jsonschema:"maxLength=63" jsonschema_description:"What it is called there. Left out: the name of this machine."`
}

// Fronts says which dialects are served (LO-427).
type Fronts struct {
	Serve        []string      `yaml:"serve" jsonschema:"maxItems=3,enum=openai,enum=anthropic,enum=ollama" jsonschema_description:"The dialects. Left out: all of them."`
	Hold         time.Duration `yaml:"hold" jsonschema:"default=5s" jsonschema_description:"How long the head of a stream is held back while its task waits, so that a refusal still has its status."`
	ReturnWithin time.Duration `yaml:"return_within" jsonschema:"default=10s" jsonschema_description:"How long the task of a client that is gone goes on, if the client sent an Idempotency-Key to come back with."`
	Keep         time.Duration `yaml:"keep" jsonschema:"default=10m" jsonschema_description:"How long the text of an ended task is kept that came by a front which stores nothing. Then what was asked and answered is deleted."`
	Feed         int           `yaml:"feed" jsonschema:"default=16,minimum=1,maximum=1024" jsonschema_description:"How many lines of a batch are in the queue or run at a time. The others wait in the ledger."`
	Upstream     bool          `yaml:"upstream" jsonschema:"default=false" jsonschema_description:"Pass requests for /upstream/POOL/… through to the pool's engine, for callers with the API token. Never where the engine has one slot, as there tasks are strict."`
}

// The dialects.
const (
	FrontOpenAI    = "openai"
	FrontAnthropic = "anthropic"
	FrontOllama    = "ollama"
)

// PageOn has the status page served (LO-603).
const PageOn = "on"

// AnyName is the alias for every name that nothing else has.
const AnyName = "*"

// Alias is another name of a model (LO-428).
type Alias struct {
	Model  string `yaml:"model" jsonschema:"required,minLength=1,maxLength=4096" jsonschema_description:"The model's name, as requests would use it; with @CTX or @QUANTISATION behind it, like coder@32k or coder@q8_0, of the pools that have so much."`
	Params Params `yaml:"params" jsonschema_description:"What is changed in requests under this name, before the pool's own params."`
}

// Params are what is changed in requests (LO-429).
type Params struct {
	Default  Settings `yaml:"default" jsonschema_description:"What requests have that say nothing else."`
	Override Settings `yaml:"override" jsonschema_description:"What requests have, whatever they say."`
	Strip    []string `yaml:"strip" jsonschema:"maxItems=16,enum=temperature,enum=top_p,enum=top_k,enum=min_p,enum=repeat_penalty,enum=max_tokens,enum=seed,enum=stop,enum=thinking,enum=effort" jsonschema_description:"What is taken out of requests before the defaults apply."`
}

// Settings are values that requests may have; nil: nothing is said.
type Settings struct {
	Temperature   *float64 `yaml:"temperature" jsonschema:"minimum=0,maximum=5" jsonschema_description:"0 always takes the likeliest token."`
	TopP          *float64 `yaml:"top_p" jsonschema:"minimum=0,maximum=1" jsonschema_description:"Keep the likeliest tokens up to this sum of probability."`
	TopK          *int     `yaml:"top_k" jsonschema:"minimum=0,maximum=1000000" jsonschema_description:"Keep this many of the likeliest tokens; 0 keeps all."`
	MinP          *float64 `yaml:"min_p" jsonschema:"minimum=0,maximum=1" jsonschema_description:"Drop tokens less likely than this share of the likeliest one."`
	RepeatPenalty *float64 `yaml:"repeat_penalty" jsonschema:"minimum=0.1,maximum=5" jsonschema_description:"Above 1 makes repetition less likely."`
	MaxTokens     *int     `yaml:"max_tokens" jsonschema:"minimum=1,maximum=16777216" jsonschema_description:"The most tokens of an answer."`
	Seed          *int     `yaml:"seed" jsonschema:"minimum=0,maximum=4294967294" jsonschema_description:"The seed."`
	Thinking      *bool    `yaml:"thinking" jsonschema_description:"Whether a model that can think before it answers does so."`
	Effort        *string  `yaml:"effort" jsonschema:"pattern=^[a-z]{1\\,32}$" jsonschema_description:"How hard it thinks, in the words of its template, like low or high."`
}

// CORS says which web pages may read answers (LO-829).
type CORS struct {
	Origins []string `yaml:"origins" jsonschema:"maxItems=64,minLength=1" jsonschema_description:"Origins of these pages, each as SCHEME://HOST[:PORT], like http://homeassistant.local:8123. With auth.optional_on_loopback they need no token on this machine. [\"*\"] lets every page read, but each needs the token."`
}

// Log configures the log.
type Log struct {
	Format string `yaml:"format" jsonschema:"default=auto,enum=auto,enum=console,enum=json" jsonschema_description:"What a line looks like. console is for people; json is one object a line; auto is console on a terminal and json elsewhere. LLORCH_LOG_FORMAT overrides it."`
	Level  string `yaml:"level" jsonschema:"default=info,enum=debug,enum=info,enum=warn,enum=error" jsonschema_description:"The least severe lines that are written."`
}

// Tracing says where an OpenTelemetry collector hears how tasks went (LO-628).
type Tracing struct {
	Endpoint string  `yaml:"endpoint" jsonschema_description:"URL of a collector that takes OTLP over HTTP, like http://127.0.0.1:4318; without a path it is /v1/traces. Empty: nothing is traced."`
	Sample   float64 `yaml:"sample" jsonschema:"default=1,minimum=0,maximum=1" jsonschema_description:"The share of tasks that are traced. Those whose client sent a traceparent are traced as it says."`
}

// Limits bound a request before anything reads its content.
type Limits struct {
	BodyBytes   int `yaml:"body_bytes" jsonschema:"default=10485760,minimum=1024,maximum=1073741824" jsonschema_description:"Largest request body, in bytes."`
	FileBytes   int `yaml:"file_bytes" jsonschema:"default=200000000,minimum=1024,maximum=1073741824" jsonschema_description:"Largest file for a batch, and largest body of a message batch, in bytes. A line of it has at most body_bytes."`
	PromptBytes int `yaml:"prompt_bytes" jsonschema:"default=8388608,minimum=1,maximum=1073741824" jsonschema_description:"Largest prompt, or sum of messages or inputs, in bytes: texts of UTF-8, images as their files are."`
	Inputs      int `yaml:"inputs" jsonschema:"default=10000,minimum=1,maximum=65536" jsonschema_description:"Most inputs of an embedding or rerank task, and most messages of a chat."`
}

// Rates cap what each API token sends (ORCH-3006).
type Rates struct {
	Interactive Rate `yaml:"interactive" jsonschema_description:"Interactive tasks."`
	Batch       Rate `yaml:"batch" jsonschema_description:"Batch tasks."`
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64 `yaml:"per_second" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"Tasks a second on average; 0 means no cap."`
	Burst     int     `yaml:"burst" jsonschema:"default=1,minimum=1,maximum=1000000" jsonschema_description:"Tasks that may come at once."`
}

// Sessions bounds sessions (ORCH-3021).
type Sessions struct {
	TTL         time.Duration `yaml:"ttl" jsonschema:"default=10m" jsonschema_description:"How long a session takes tasks, from its first one; at most 24h."`
	MaxTurns    int           `yaml:"max_turns" jsonschema:"default=8,minimum=1,maximum=1000000" jsonschema_description:"How many tasks a session takes."`
	MaxSessions int           `yaml:"max_sessions" jsonschema:"default=1024,minimum=1,maximum=100000" jsonschema_description:"How many sessions are kept at most."`
	KVBytes     int           `yaml:"kv_bytes" jsonschema:"default=0,minimum=0,maximum=1125899906842624" jsonschema_description:"What the KV of sessions whose model was unloaded may take on the disk, in bytes, so that their next turn need not compute it again; 0 means that none is saved. Models of a llama-server of our own, in mode binary, package or source."`
}

// Budgets bound what tasks take together (ORCH-3099).
type Budgets struct {
	Session Budget      `yaml:"session" jsonschema_description:"The budget of each session that has none of its own."`
	Token   TokenBudget `yaml:"token" jsonschema_description:"The budget of each API token. Callers that need no token share one."`
}

// Budget is one budget.
type Budget struct {
	Tokens int     `yaml:"tokens" jsonschema:"default=0,minimum=0,maximum=9007199254740991" jsonschema_description:"Tokens, in and out together; 0 means no bound."`
	TimeMS int     `yaml:"time_ms" jsonschema:"default=0,minimum=0,maximum=9007199254740" jsonschema_description:"Milliseconds of decoding; 0 means no bound."`
	Cost   float64 `yaml:"cost" jsonschema:"default=0,minimum=0,maximum=1000000000" jsonschema_description:"Cost, at the pools' prices and that of electricity; 0 means no bound."`
	Joules float64 `yaml:"joules" jsonschema:"default=0,minimum=0,maximum=1000000000000" jsonschema_description:"Joules that cards take for tasks, where they have a counter; 0 means no bound."`
}

// TokenBudget is a budget that renews.
type TokenBudget struct {
	Tokens int           `yaml:"tokens" jsonschema:"default=0,minimum=0,maximum=9007199254740991" jsonschema_description:"Tokens, in and out together; 0 means no bound."`
	TimeMS int           `yaml:"time_ms" jsonschema:"default=0,minimum=0,maximum=9007199254740" jsonschema_description:"Milliseconds of decoding; 0 means no bound."`
	Cost   float64       `yaml:"cost" jsonschema:"default=0,minimum=0,maximum=1000000000" jsonschema_description:"Cost, at the pools' prices and that of electricity; 0 means no bound."`
	Joules float64       `yaml:"joules" jsonschema:"default=0,minimum=0,maximum=1000000000000" jsonschema_description:"Joules that cards take for tasks, where they have a counter; 0 means no bound."`
	Renew  time.Duration `yaml:"renew" jsonschema:"default=24h" jsonschema_description:"How often it renews. With 24h it renews at midnight UTC."`
}

// Energy is what electricity costs (LO-626).
type Energy struct {
	PricePerKWh float64 `yaml:"price_per_kwh" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"A kilowatt-hour. The unit is yours, and that of the pools' prices. 0: tasks are told no cost of their energy."`
	Night       Night   `yaml:"night" jsonschema_description:"Another price for a part of each day. Left out: there is one price."`
}

// Night is the part of a day in which electricity has another price.
type Night struct {
	From        string  `yaml:"from" jsonschema:"pattern=^([01][0-9]|2[0-3]):[0-5][0-9]$" jsonschema_description:"When it begins, such as 22:00, in the time zone of this machine."`
	To          string  `yaml:"to" jsonschema:"pattern=^([01][0-9]|2[0-3]):[0-5][0-9]$" jsonschema_description:"When it ends, such as 06:00."`
	PricePerKWh float64 `yaml:"price_per_kwh" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"A kilowatt-hour in that time."`
}

// Ledger says how long finished tasks are remembered (LO-202), and where.
type Ledger struct {
	Postgres    Postgres      `yaml:"postgres" jsonschema_description:"Keep the record in a PostgreSQL database instead of the data folder. Left out: it is the file state.db there."`
	RetainAge   time.Duration `yaml:"retain_age" jsonschema:"default=168h" jsonschema_description:"How long a finished task and its stream can be read again."`
	RetainBytes int           `yaml:"retain_bytes" jsonschema:"default=1073741824,minimum=1048576,maximum=1125899906842624" jsonschema_description:"What tasks may take on the disk, in bytes. Beyond that the oldest finished ones go."`
}

// Postgres names a database (LO-703).
type Postgres struct {
	DSNEnv      string `yaml:"dsn_env" jsonschema:"pattern=^[A-Za-z_][A-Za-z0-9_]*$" jsonschema_description:"Name of the environment variable that holds the DSN, such as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full. The DSN itself is never in this file."`
	Schema      string `yaml:"schema" jsonschema:"default=llorch,pattern=^[a-z_][a-z0-9_]*$,maxLength=63" jsonschema_description:"The schema of the tables. It is made where it is missing."`
	Connections int    `yaml:"connections" jsonschema:"default=8,minimum=2,maximum=64" jsonschema_description:"How many connections the daemon opens at most. One of them writes."`

	DSN Secret `yaml:"-"` // from the variable; empty: not set
}

// On reports whether the record is in a database.
func (p Postgres) On() bool { return p.DSNEnv != "" }

// Hosts says how a daemon shows itself to those that share its ledger (LO-713).
type Hosts struct {
	Name    string        `yaml:"name" jsonschema:"maxLength=63,pattern=^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$" jsonschema_description:"What this server is called among them. Left out: the name of this machine."`
	Address string        `yaml:"address" jsonschema:"maxLength=256" jsonschema_description:"URL by which the others and clients reach it, like https://attic.lan:8443. Left out: bind_addr, if that has TLS or is this machine's alone; else nothing is passed on to it."`
	Lease   time.Duration `yaml:"lease" jsonschema:"default=5s" jsonschema_description:"How long its pools are its own after it was last heard of. Then another host that has them takes over. The same on all of them."`
	CA      string        `yaml:"ca" jsonschema_description:"PEM file with certificates that sign those of the other hosts, beside those of the system. A relative path is relative to this file's folder."`
}

// Policy says which calls may leave the machine (ORCH-3080).
type Policy struct {
	Outbound string   `yaml:"outbound" jsonschema:"default=enforce,enum=enforce,enum=dry_run,enum=off" jsonschema_description:"enforce: the two lists decide. dry_run: a call that they would refuse is logged and goes out. off: nothing leaves this machine."`
	Allow    []string `yaml:"allow" jsonschema:"maxItems=256,minLength=1" jsonschema_description:"[scheme://]host[:port] of what may be called; the host may be *, *.name, an address or a range. Empty allows everything that is not denied. Private addresses need a rule that names them, unless they are a configured engine's."`
	Deny     []string `yaml:"deny" jsonschema:"maxItems=256,minLength=1" jsonschema_description:"The same for what may not be called. Deny wins."`
}

// Catalog says where models come from and which are trusted (ORCH-3060, ORCH-3037).
type Catalog struct {
	Trust     Trust     `yaml:"trust" jsonschema_description:"Which models are accepted."`
	Endpoints Endpoints `yaml:"endpoints" jsonschema_description:"Mirrors, or your own servers, in place of the services behind the schemes."`
	Folders   []string  `yaml:"folders" jsonschema:"maxItems=64,minLength=1" jsonschema_description:"Folders below which files may be that are named over the API, by file: refs. The folder of a pool's own model always is one, without those below it."`
	Fetches   int       `yaml:"fetches" jsonschema:"default=2,minimum=1,maximum=16" jsonschema_description:"Models that are fetched from one source at the same time."`
	Hashes    int       `yaml:"hashes" jsonschema:"default=2,minimum=1,maximum=16" jsonschema_description:"Pieces of models that are hashed at the same time."`
}

// Trust says which models are taken.
type Trust struct {
	Mode    string   `yaml:"mode" jsonschema:"default=permissive,enum=permissive,enum=strict" jsonschema_description:"permissive: a missing signature is a warning. strict: a model needs a signature by one of the keys."`
	Sources []string `yaml:"sources" jsonschema:"maxItems=256,minLength=1" jsonschema_description:"What model refs may begin with, like hf:org/ or file:/srv/models. Empty accepts any."`
	Keys    []string `yaml:"keys" jsonschema:"maxItems=64,minLength=1" jsonschema_description:"minisign public keys, in base64."`
}

// Endpoints say where the services behind the schemes are.
type Endpoints struct {
	HF  string     `yaml:"hf" jsonschema_description:"Base URL in place of the model hub's."`
	S3  string     `yaml:"s3" jsonschema_description:"Base URL of the S3 service."`
	OCI []Registry `yaml:"oci" jsonschema:"maxItems=64" jsonschema_description:"Mirrors of registries."`
}

// Registry is a mirror of the registry of that name.
type Registry struct {
	Name string `yaml:"name" jsonschema:"required,minLength=1" jsonschema_description:"The registry as refs name it."`
	URL  string `yaml:"url" jsonschema:"required,minLength=1" jsonschema_description:"Base URL of the server that is called in its place."`
}

// Artifacts says what the artifact store keeps (ORCH-3097, OC-CTRL-2067).
type Artifacts struct {
	RetainAge       time.Duration `yaml:"retain_age" jsonschema:"default=168h" jsonschema_description:"How long an artifact is kept after it was stored."`
	RetainBytes     int           `yaml:"retain_bytes" jsonschema:"default=1073741824,minimum=1048576,maximum=1125899906842624" jsonschema_description:"What all artifacts may take on the disk, in bytes. Beyond that the oldest go."`
	MaxBytes        int           `yaml:"max_bytes" jsonschema:"default=67108864,minimum=1024,maximum=1073741824" jsonschema_description:"Largest artifact, in bytes. Over the API it has to fit into limits.body_bytes as well."`
	KeepPrompts     bool          `yaml:"keep_prompts" jsonschema:"default=false" jsonschema_description:"Proof bundles hold prompts, not only their digests."`
	KeepTranscripts bool          `yaml:"keep_transcripts" jsonschema:"default=false" jsonschema_description:"Proof bundles hold what the model answered, not only its digest."`
	KeepProofs      bool          `yaml:"keep_proofs" jsonschema:"default=false" jsonschema_description:"The proof bundle of a task that the ledger forgets is kept as an artifact. Until then the ledger gives it."`
}

// Stream says how events are sent.
type Stream struct {
	MicroBatchMS int `yaml:"micro_batch_ms" jsonschema:"default=0,minimum=0,maximum=100" jsonschema_description:"Tokens that come within so many milliseconds are written together. That means fewer writes, but later tokens. 0 writes each token as it comes."`
}

// Swap bounds the wait for a model that is not in memory (LO-503).
type Swap struct {
	MaxWait            time.Duration `yaml:"max_wait" jsonschema:"default=30s" jsonschema_description:"When an interactive task has waited so long for its model, it is next: loaded pools finish what they run, and make room."`
	MaxWaitBehindBatch time.Duration `yaml:"max_wait_behind_batch" jsonschema:"default=5s" jsonschema_description:"The same if only batch tasks are in the way."`
	MaxWaitBatch       time.Duration `yaml:"max_wait_batch" jsonschema:"default=10m" jsonschema_description:"The same for a batch task."`
	MinTurn            time.Duration `yaml:"min_turn" jsonschema:"default=20s" jsonschema_description:"A loaded pool that has tasks stays at least so long."`
	Linger             time.Duration `yaml:"linger" jsonschema:"default=30s" jsonschema_description:"A pool that has been idle for less than this does not make room for batch tasks, since its user is likely to be back."`
}

// Provision bounds what preparing engines may do (ORCH-3200).
type Provision struct {
	AllowSystemPackages bool `yaml:"allow_system_packages" jsonschema:"default=false" jsonschema_description:"Let pools of provisioning.mode package install with pacman or apt-get, as root or with sudo."`
}

// SamplerProfile is a named set of sampling parameters. A request may override each of them.
type SamplerProfile struct {
	Temperature   float64 `yaml:"temperature" jsonschema:"default=0.8,minimum=0,maximum=5" jsonschema_description:"0 always takes the likeliest token."`
	TopP          float64 `yaml:"top_p" jsonschema:"default=0.95,minimum=0,maximum=1" jsonschema_description:"Keep the likeliest tokens up to this sum of probability; 1 keeps all."`
	TopK          int     `yaml:"top_k" jsonschema:"default=40,minimum=0,maximum=1000000" jsonschema_description:"Keep this many of the likeliest tokens; 0 keeps all."`
	MinP          float64 `yaml:"min_p" jsonschema:"default=0.05,minimum=0,maximum=1" jsonschema_description:"Drop tokens less likely than this share of the likeliest one; 0 drops none."`
	RepeatPenalty float64 `yaml:"repeat_penalty" jsonschema:"default=1.0,minimum=0.1,maximum=5" jsonschema_description:"Above 1 makes repetition less likely; 1 is off."`
}

// DefaultProfile is the name of the sampler profile that always exists.
const DefaultProfile = "default"

// The provisioning modes and full-queue policies that a pool may name.
const (
	ModeBuiltin  = "builtin"
	ModeExternal = "external"
	ModeBinary   = "binary"

	ModePackage   = "package"
	ModeContainer = "container"
	ModeSource    = "source"

	LifecyclePinned   = "pinned"
	LifecycleOnDemand = "on_demand"

	PolicyDropLRU = "drop-lru"

	ReuseOn  = "on"
	ReuseOff = "off"

	OutboundDryRun = "dry_run"
	OutboundOff    = "off"

	TrustStrict = "strict"
)

// Pool is one pool.
type Pool struct {
	ID             string        `yaml:"id" jsonschema:"required,pattern=^[a-z0-9][a-z0-9._-]{0\\,62}$" jsonschema_description:"Name of the pool, in paths, logs and metrics: lower-case letters, digits, dots, dashes, underscores."`
	Engine         string        `yaml:"engine" jsonschema_description:"The engine kind."`
	Workload       task.Workload `yaml:"workload" jsonschema:"default=completion,enum=completion,enum=embedding,enum=rerank" jsonschema_description:"What the pool's model is for."`
	Model          Model         `yaml:"model" jsonschema:"required" jsonschema_description:"The model."`
	Device         Device        `yaml:"device" jsonschema:"default=auto" jsonschema_description:"cpu, auto or a list of GPU indices. With auto each replica gets the one GPU that holds it; a list of several is used together, by tensor_split, or evenly by the engines vllm and tgi. A GPU pool never falls back to the CPU. An external engine chose its device itself."`
	TensorSplit    []float64     `yaml:"tensor_split" jsonschema:"maxItems=16" jsonschema_description:"The share of the model that each GPU of a list in device holds, like [2, 1]. A list of several GPUs needs it, but for the engines vllm and tgi. It also needs a llama-server, so not provisioning.mode builtin."`
	RPC            []string      `yaml:"rpc" jsonschema:"maxItems=16,minLength=1" jsonschema_description:"HOST:PORT of each ggml-rpc-server that computes a part of the model, for a llama-server built with GGML_RPC. llama-server divides the model by what each has free. Such a pool has one replica, and its tasks are best-effort. Whoever reaches such a port can make it run anything: keep it in a network that you trust."`
	Span           bool          `yaml:"span" jsonschema:"default=false" jsonschema_description:"external: the engine computes on several hosts, like vLLM on Ray. Capabilities show it."`
	Routes         []string      `yaml:"routes" jsonschema:"maxItems=64,minLength=2" jsonschema_description:"Engine command: the paths of the requests that are passed to the pool's server as they are, like /v1/audio/transcriptions, or /v1/images/* for all that begin so."`
	Health         string        `yaml:"health" jsonschema:"default=/,pattern=^/[!-~]{0\\,255}$" jsonschema_description:"Engine command: the path that the server answers without an error once it can work."`
	Memory         Size          `yaml:"memory" jsonschema:"pattern=^[1-9][0-9]{0\\,6}(MiB|GiB)$" jsonschema_description:"Engine command: what a server takes of its cards, or of the host's memory, like 2GiB. Left out, it is guessed from the model's file; what it really took counts from then on."`
	Lifecycle      string        `yaml:"lifecycle" jsonschema:"default=pinned,enum=pinned,enum=on_demand" jsonschema_description:"pinned: loaded at the start, and always. on_demand: loaded when a task needs it, unloaded to make room for others and after idle_ttl."`
	IdleTTL        time.Duration `yaml:"idle_ttl" jsonschema:"default=10m" jsonschema_description:"on_demand: unloaded when no task needed it for so long."`
	Replicas       int           `yaml:"replicas" jsonschema:"default=1,minimum=1,maximum=64" jsonschema_description:"Worker processes. An external pool has one replica for each URL."`
	Slots          int           `yaml:"slots" jsonschema:"default=1,minimum=1,maximum=1024" jsonschema_description:"Tasks that one replica decodes at the same time. Only a replica with one slot can promise the same bytes again."`
	Ctx            int           `yaml:"ctx" jsonschema:"default=0,minimum=0,maximum=16777216" jsonschema_description:"Context of a slot, in tokens. 0 on a GPU: as much as fits on each replica's card, up to the model's own. 0 elsewhere: the model's own."`
	Threads        int           `yaml:"threads" jsonschema:"default=0,minimum=0,maximum=1024" jsonschema_description:"CPU threads of a replica; 0 chooses."`
	SamplerProfile string        `yaml:"sampler_profile" jsonschema:"default=default" jsonschema_description:"Name of the sampler profile for requests that set no parameters."`
	Pace           float64       `yaml:"pace" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"Built-in worker: at most this many tokens a second; 0 is as fast as possible."`
	Determinism    Determinism   `yaml:"determinism" jsonschema_description:"How strict tasks get the same bytes."`
	Provisioning   Provisioning  `yaml:"provisioning" jsonschema_description:"Where the pool's workers come from."`
	Params         Params        `yaml:"params" jsonschema_description:"What is changed in requests that the pool gets."`
	Price          Price         `yaml:"price" jsonschema_description:"What the pool's tokens cost, for budgets of cost. The unit is yours."`
	Queue          Queue         `yaml:"queue" jsonschema_description:"The pool's queue."`
	Timeouts       Timeouts      `yaml:"timeouts" jsonschema_description:"When a running task counts as stuck."`
}

// Determinism says how strict tasks get the same bytes.
type Determinism struct {
	Reuse          string `yaml:"reuse" jsonschema:"default=auto,enum=auto,enum=on,enum=off" jsonschema_description:"Whether a strict task takes the beginning of its prompt from the KV of the one before it, in whole pieces, which changes no byte. auto: where the determinism suite has shown that, which is on CPUs, without further arguments. on: wherever the worker can; run the suite there first. off: each strict task starts cold. A worker with several slots, or one that runs elsewhere, always does."`
	BatchInvariant bool   `yaml:"batch_invariant" jsonschema:"default=false" jsonschema_description:"The engine promises the same bytes whatever else it computes, as vLLM does where it runs with VLLM_BATCH_INVARIANT=1. Then its tasks may be strict, however many slots it has. Let go tool mage determinism -engine URL try that first."`
	Piece          int    `yaml:"piece" jsonschema:"default=0,minimum=0,maximum=4096" jsonschema_description:"How many tokens of a prompt are computed at once, and so the size of a piece. 0 is a sixteenth of ctx, from 16 to 512."`
}

// Model names a pool's model.
type Model struct {
	ID     string `yaml:"id" jsonschema:"pattern=^[A-Za-z0-9][A-Za-z0-9._:/-]{0\\,127}$" jsonschema_description:"Name that requests use as model_ref. Left out, it is the last part of ref without .gguf."`
	Ref    string `yaml:"ref" jsonschema:"required,minLength=1,maxLength=4096" jsonschema_description:"Where the model is: file:PATH, relative to this file's folder, or hf:ORG/REPO[/FILE], https://HOST/PATH, s3:BUCKET/KEY, oci:REGISTRY/REPOSITORY:TAG, which is fetched. For an external pool it is a label that is never opened. For a vllm or tgi that is started here, it is file:FOLDER, with all files of the repository."`
	Name   string `yaml:"name" jsonschema:"maxLength=256,minLength=1" jsonschema_description:"Name by which the engine itself knows the model, where it serves models by name. Left out, it is the id where the engine has that one, or else the only model that it has."`
	Digest string `yaml:"digest" jsonschema:"pattern=^sha256:[0-9a-f]{64}$" jsonschema_description:"Expected SHA-256 of the model's file, as sha256:HEX; for a model in several parts, the SHA-256 of all parts, one after the other. Another digest is refused."`

	Canonical string `yaml:"-"` // Ref normalised, for comparing with a request's model_ref: see Config.CanonicalRef
	Path      string `yaml:"-"` // the model's file, absolute; empty for an external pool, and for a model that is fetched
}

// Provisioning says where workers come from.
type Provisioning struct {
	Mode   string   `yaml:"mode" jsonschema:"default=builtin,enum=builtin,enum=external,enum=binary,enum=package,enum=container,enum=source" jsonschema_description:"builtin: the worker inside orchestratord. external: running engines, which urls names or which register themselves. binary: a llama-server, vllm or text-generation-launcher at path, or downloaded from url. package: one that the system's package manager installs. container: one in a container of docker or podman. source: one that is built from its source. orchestratord plan shows the steps."`
	URLs   []string `yaml:"urls" jsonschema:"maxItems=64,minLength=1" jsonschema_description:"external: base URLs, one for each replica. Leave it out if all engines register themselves (POST /v1/workers/register)."`
	KeyEnv string   `yaml:"key_env" jsonschema:"pattern=^[A-Za-z_][A-Za-z0-9_]*$" jsonschema_description:"external: name of the environment variable that holds the engines' API key. The key itself is never in this file."`
	Key    Secret   `yaml:"-"` // from the variable that KeyEnv names
	Path   string   `yaml:"path" jsonschema_description:"binary: the program. A bare name is looked up in PATH, a relative path starts at this file's folder; with url it is the program's path inside the archive. Left out, it is vllm or text-generation-launcher for those engines. package: the program, if it is not llama-server."`
	Args   []string `yaml:"args" jsonschema:"maxItems=64" jsonschema_description:"binary, package, container, source: further arguments of llama-server, put after the pool's own."`

	URL    string `yaml:"url" jsonschema:"maxLength=4096" jsonschema_description:"binary: an https URL of the program, or of a .tar.gz or .zip that holds it."`
	Digest string `yaml:"digest" jsonschema:"pattern=^sha256:[0-9a-f]{64}$" jsonschema_description:"binary: SHA-256 of what url gives, as sha256:HEX."`

	Package string `yaml:"package" jsonschema:"pattern=^[a-z0-9][a-z0-9+.@_-]{0\\,99}$" jsonschema_description:"package: its name. provision.allow_system_packages has to be true."`

	Image   string `yaml:"image" jsonschema:"pattern=^[A-Za-z0-9][A-Za-z0-9._:/-]{0\\,255}(@sha256:[0-9a-f]{64})?$" jsonschema_description:"container: the image. Its entry point must be llama-server, vllm serve or text-generation-launcher. With @sha256:HEX nobody can change the image."`
	Runtime string `yaml:"runtime" jsonschema:"default=docker,enum=docker,enum=podman" jsonschema_description:"container: the program that runs it."`

	Repository string   `yaml:"repository" jsonschema:"maxLength=4096" jsonschema_description:"source: an https URL of a git repository, or a folder or git bundle, relative to this file's folder. Left out, it is the packaged source of llama.cpp."`
	Ref        string   `yaml:"ref" jsonschema:"default=HEAD,pattern=^[A-Za-z0-9][A-Za-z0-9._/-]{0\\,199}$" jsonschema_description:"source: branch, tag or commit. A build is kept by this name, so name a tag or a commit, which do not move."`
	CMakeFlags []string `yaml:"cmake_flags" jsonschema:"maxItems=64,minLength=1" jsonschema_description:"source: flags for CMake, each -DNAME=VALUE, like -DGGML_CUDA=ON."`
}

// Price is what tokens cost.
type Price struct {
	In  float64 `yaml:"per_1k_in" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"1000 tokens of prompts."`
	Out float64 `yaml:"per_1k_out" jsonschema:"default=0,minimum=0,maximum=1000000" jsonschema_description:"1000 tokens of answers."`
}

// Queue is a pool's waiting line.
type Queue struct {
	Capacity   int    `yaml:"capacity" jsonschema:"default=64,minimum=1,maximum=1000000" jsonschema_description:"Most tasks that wait, of both priorities together."`
	FullPolicy string `yaml:"full_policy" jsonschema:"default=reject,enum=reject,enum=drop-lru" jsonschema_description:"What a full queue does with a newcomer: refuse it, or drop the oldest waiting task."`
}

// Timeouts are a pool's watchdogs (OC-CORE-1022).
type Timeouts struct {
	Wall    time.Duration `yaml:"wall" jsonschema:"default=5m" jsonschema_description:"Longest run of a task."`
	Prefill time.Duration `yaml:"prefill" jsonschema:"default=2m" jsonschema_description:"Longest wait for the first token. It begins anew whenever the engine reports that it is further with the prompt. Where it is left out, it is not less than idle and not more than wall."`
	Idle    time.Duration `yaml:"idle" jsonschema:"default=30s" jsonschema_description:"Longest time without a token after the first one."`
}

// Strict reports whether the pool's tasks get the same bytes again, as far as the configuration tells (LO-453).
func (p Pool) Strict() bool {
	return p.Determinism.BatchInvariant || p.Slots == 1 && task.Exact(p.Engine) && len(p.RPC) == 0
}

// Size is a number of bytes, like 2GiB; empty: none is said.
type Size string

// Bytes is the number.
func (s Size) Bytes() int64 {
	for unit, factor := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		if text, ok := strings.CutSuffix(string(s), unit); ok {
			n, _ := strconv.ParseInt(text, 10, 32) // the schema's pattern allows no other
			return n * factor
		}
	}
	return 0
}

// ModelHere stands for the model's file in the arguments of a command.
const ModelHere = "{model}"

// HasModel reports whether the pool's workers need a model's file. Where a command does not name it, model.ref is a label.
func (p Pool) HasModel() bool {
	return p.Engine != task.Command || slices.ContainsFunc(p.Provisioning.Args, func(arg string) bool { return strings.Contains(arg, ModelHere) })
}

// Profile returns the pool's sampler profile with every value resolved.
func (c Config) Profile(p Pool) SamplerProfile { return c.SamplerProfiles[p.SamplerProfile] }

// Device is a pool's device mask: "cpu", "auto", or GPU indices as in "0" and "0,1"; empty for an external pool.
type Device string

// The values of a device that are no list.
const (
	CPU  Device = "cpu"
	Auto Device = "auto"
)

// Secret is a string that does not print itself; convert it to use it.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders from printing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
