// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/task"
)

// The environment variables that override the file.
const (
	EnvBindAddr = "LLORCH_BIND_ADDR"
	EnvDataDir  = "LLORCH_DATA_DIR"

	EnvLogFormat = "LLORCH_LOG_FORMAT"
)

// finish applies the environment, checks fields against each other, and fills in what follows from other fields. A field that could not be
// read has its zero value here. It was reported already, so it is not reported again.
func (c *Config) finish(ps *problems, env func(string) string) {
	c.bind(ps, env)
	c.state(ps, env)
	c.log(ps, env)
	c.folders(ps)
	c.cors(ps)
	c.tls(ps)
	c.announce(ps)
	c.tracing(ps)
	c.energy(ps)
	c.token(ps, env)
	if c.Ledger.Postgres.On() {
		c.Ledger.Postgres.DSN = Secret(env(c.Ledger.Postgres.DSNEnv))
	}
	if !c.where.set("limits.prompt_bytes") { // who takes smaller bodies means it
		c.Limits.PromptBytes = min(c.Limits.PromptBytes, c.Limits.BodyBytes)
	}
	if c.Limits.PromptBytes > c.Limits.BodyBytes && c.Limits.BodyBytes > 0 {
		ps.add(c.where.of("limits.prompt_bytes"), fmt.Sprintf("limits.prompt_bytes (%d) is over limits.body_bytes (%d)", c.Limits.PromptBytes, c.Limits.BodyBytes),
			"a prompt comes in a body: raise body_bytes or lower prompt_bytes")
	}
	if c.Sessions.TTL > maxSessionTTL {
		ps.add(c.where.of("sessions.ttl"), fmt.Sprintf("sessions.ttl (%s) is over %s", c.Sessions.TTL, maxSessionTTL), "write 24h or less: who needs longer begins another session")
	}
	c.profiles()
	ids := make(map[string]int)
	for i := range c.Pools {
		p := &c.Pools[i]
		path := fmt.Sprintf("pools[%d]", i)
		if first, double := ids[p.ID]; double && p.ID != "" {
			ps.add(c.where.of(path+".id"), fmt.Sprintf("the pool id %s is taken by the pool in line %d", p.ID, c.where.of(fmt.Sprintf("pools[%d].id", first)).line),
				"give each pool an id of its own")
		} else {
			ids[p.ID] = i
		}
		c.pool(ps, p, path, env)
	}
	c.engines(ps)
	c.hosts(ps)
	c.shared(ps)
	c.fronts()
	c.aliases(ps)
	replicas := 0
	for i := range c.Pools {
		replicas += max(c.Pools[i].Replicas, len(c.Pools[i].Provisioning.URLs))
	}
	if replicas > maxReplicas {
		ps.add(c.where.of("pools"), fmt.Sprintf("the pools have %d replicas in all, more than %d", replicas, maxReplicas),
			"lower `replicas`: each one is a label of the metrics, whose number is bounded (ORCH-3028)")
	}
}

func (c *Config) log(ps *problems, env func(string) string) {
	switch v := env(EnvLogFormat); v {
	case "":
	case "auto", "console", "json":
		c.Log.Format = v
	default:
		ps.addEnv(EnvLogFormat, fmt.Sprintf("%q is no format of the log", v), "use auto, console or json")
	}
}

// engines refuses an external engine that is in two pools, since each pool would use its slots as if they were its own.
func (c *Config) engines(ps *problems) {
	of := map[string]string{}
	for i, p := range c.Pools {
		for k, u := range p.Provisioning.URLs {
			if first, taken := of[u]; taken && first != p.ID {
				ps.add(c.where.of(fmt.Sprintf("pools[%d].provisioning.urls[%d]", i, k)), fmt.Sprintf("%s is in pool %s already", u, first),
					"give each pool engines of its own")
			}
			of[u] = p.ID
		}
	}
}

// maxSessionTTL is the longest one that the API's contract allows.
const maxSessionTTL = 24 * time.Hour

// maxReplicas bounds the replicas of all pools together. The metrics contract relies on it.
const maxReplicas = 64

func (c *Config) bind(ps *problems, env func(string) string) {
	const remedy = "write HOST:PORT, like 127.0.0.1:8080"
	addr, report := c.BindAddr, func(what string) { ps.add(c.where.of("bind_addr"), what, remedy) }
	if v := env(EnvBindAddr); v != "" {
		addr, report = v, func(what string) { ps.addEnv(EnvBindAddr, what, remedy) }
	}
	if addr == "" && c.BindAddr == "" && c.where.set("bind_addr") {
		report("bind_addr is empty")
		return
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		report(fmt.Sprintf("%q is no address", task.Clip(addr, maxQuote)))
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strings.HasPrefix(port, "+") {
		report(fmt.Sprintf("%q is no port", task.Clip(port, maxQuote)))
		return
	} else if port = strconv.FormatUint(n, 10); strings.ContainsAny(host, " /@") {
		report(fmt.Sprintf("%q is no host", task.Clip(host, maxQuote)))
		return
	}
	c.BindAddr = net.JoinHostPort(host, port)
}

// Loopback reports whether only this machine can reach BindAddr.
func (c Config) Loopback() bool {
	host, _, err := net.SplitHostPort(c.BindAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") || ip != nil && ip.IsLoopback()
}

func (c *Config) state(ps *problems, env func(string) string) {
	dir, report := c.DataDir, func(what, remedy string) { ps.add(c.where.of("data_dir"), what, remedy) }
	base := c.Dir
	if v := env(EnvDataDir); v != "" {
		dir, report = v, func(what, remedy string) { ps.addEnv(EnvDataDir, what, remedy) }
		var err error
		if base, err = filepath.Abs("."); err != nil { // as in a shell, a relative path starts at the working folder
			report("the working folder is gone", "write an absolute path")
			return
		}
	}
	if dir == "" {
		return
	}
	path, err := expand(dir, base, c.home)
	if err != nil {
		report("the data folder cannot be found", err.Error())
		return
	}
	c.DataDir = path
}

// folders makes the folders for files of the API absolute.
func (c *Config) folders(ps *problems) {
	for i, folder := range c.Catalog.Folders {
		path, err := expand(folder, c.Dir, c.home)
		if err != nil {
			ps.add(c.where.of("catalog.folders"), "a folder of models cannot be found", err.Error())
			continue
		}
		c.Catalog.Folders[i] = path
	}
}

func (c *Config) token(ps *problems, env func(string) string) {
	if c.Auth.TokenEnv == "" {
		return
	}
	token := env(c.Auth.TokenEnv)
	if unfitKey(token) {
		ps.addEnv(c.Auth.TokenEnv, "the API token holds a blank or a character that is not ASCII", "use letters, digits and punctuation, as `openssl rand -hex 32` makes them")
		return
	}
	c.Token = Secret(token)
}

// profiles adds the profile that always exists.
func (c *Config) profiles() {
	if c.SamplerProfiles == nil {
		c.SamplerProfiles = make(map[string]SamplerProfile)
	}
	if _, redefined := c.SamplerProfiles[DefaultProfile]; !redefined {
		c.SamplerProfiles[DefaultProfile] = defaultProfile()
	}
}

// timeouts checks a pool's watchdogs. The default of one of them depends on the others.
func (c *Config) timeouts(ps *problems, t *Timeouts, path string) {
	if t.Wall == 0 { // it could not be read
		return
	}
	if !c.where.set(path + ".prefill") {
		t.Prefill = min(max(t.Prefill, t.Idle), t.Wall)
	}
	for _, over := range []struct {
		name  string
		value time.Duration
	}{{"idle", t.Idle}, {"prefill", t.Prefill}} {
		if over.value > t.Wall {
			ps.add(c.where.of(path+"."+over.name), fmt.Sprintf("timeouts.%s (%s) is over timeouts.wall (%s)", over.name, over.value, t.Wall),
				fmt.Sprintf("it would never fire: lower %s or raise wall", over.name))
		}
	}
}

func (c *Config) pool(ps *problems, p *Pool, path string, env func(string) string) {
	at := func(field string) position { return c.where.of(path + "." + field) }
	if _, known := c.SamplerProfiles[p.SamplerProfile]; !known && p.SamplerProfile != "" {
		var names []string
		for name := range c.SamplerProfiles {
			names = append(names, name)
		}
		slices.Sort(names)
		remedy := "define it under sampler_profiles, or use one of: " + strings.Join(names, ", ")
		if best := nearest.Name(p.SamplerProfile, names); best != "" {
			remedy = fmt.Sprintf("did you mean %s? Otherwise %s", best, remedy)
		}
		ps.add(at("sampler_profile"), fmt.Sprintf("there is no sampler profile %s", task.Clip(p.SamplerProfile, maxQuote)), remedy)
	}
	c.timeouts(ps, &p.Timeouts, path+".timeouts")
	if !c.started(ps, p, path) {
		return
	}
	switch p.Provisioning.Mode {
	case ModeBuiltin:
		c.only(ps, path, p.Provisioning.Mode)
		if p.Slots > 1 {
			ps.add(at("slots"), fmt.Sprintf("the built-in worker has one slot, not %d", p.Slots),
				"use slots: 1 and more replicas; one slot is what makes its output the same bytes each time")
		}
		if p.Workload == task.Rerank {
			ps.add(at("workload"), "the built-in worker cannot rerank", "use provisioning.mode binary or external with a llama-server")
		}
	case ModeBinary:
		c.only(ps, path, p.Provisioning.Mode)
		c.binary(ps, p, path)
	case ModePackage, ModeContainer, ModeSource:
		c.only(ps, path, p.Provisioning.Mode)
		c.prepared(ps, p, path)
	case ModeExternal:
		c.only(ps, path, p.Provisioning.Mode)
		c.external(ps, p, path)
	}
	c.rpc(ps, p, path)
	c.command(ps, p, path)
	c.reuse(ps, p, path)
	c.key(ps, p, path, env)
	c.devices(ps, p, path)
	c.size(ps, p, path)
	c.model(ps, p, path)
}

// smallestPiece is the smallest determinism.piece.
const smallestPiece = 16

// reuse checks what is said of strict tasks.
func (c *Config) reuse(ps *problems, p *Pool, path string) {
	d, at := p.Determinism, func(field string) position { return c.where.of(path + ".determinism." + field) }
	switch {
	case d.Piece > 0 && d.Piece < smallestPiece:
		ps.add(at("piece"), fmt.Sprintf("determinism.piece is %d, and pieces so small are slow", d.Piece), fmt.Sprintf("write %d or more, or leave it out", smallestPiece))
	case d.BatchInvariant && p.Engine != task.VLLM && p.Engine != "":
		ps.add(at("batch_invariant"), fmt.Sprintf("engines of kind %s promise no such thing", p.Engine), "remove determinism.batch_invariant; a pool of engine vllm may have it")
	case d.Reuse == ReuseOn && p.Slots > 1:
		ps.add(at("reuse"), "determinism.reuse is on, and the pool has several slots, where no task is strict", "use slots: 1 and more replicas, or remove it")
	case d.Reuse == ReuseOff && d.Piece > 0:
		ps.add(at("piece"), "determinism.piece has no effect with determinism.reuse: off", "remove one of the two")
	}
}

// key takes the key of a pool's engines from the environment.
func (c *Config) key(ps *problems, p *Pool, path string, env func(string) string) {
	v := &p.Provisioning
	if v.KeyEnv == "" || v.Mode != ModeExternal {
		return
	}
	key := env(v.KeyEnv)
	switch {
	case key == "":
		ps.add(c.where.of(path+".provisioning.key_env"), v.KeyEnv+" is not set in the environment", "set it to the key that the engines of the pool ask for, or remove key_env")
	case unfitKey(key):
		ps.addEnv(v.KeyEnv, "the engines' key holds a blank or a character that is not ASCII", "set it to the key alone")
	default:
		v.Key = Secret(key)
	}
}

// unfitKey reports whether a text cannot be a bearer token.
func unfitKey(key string) bool {
	return strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0
}

// devices checks the device mask, the split over it and the life cycle against each other (ORCH-3052, LO-503).
func (c *Config) devices(ps *problems, p *Pool, path string) {
	at := func(field string) position { return c.where.of(path + "." + field) }
	cards := 1
	if p.Device != "" && p.Device != CPU && p.Device != Auto {
		cards = 1 + strings.Count(string(p.Device), ",")
	}
	split := p.TensorSplit
	switch {
	case hubProgram(p.Engine) != "" && p.Provisioning.Mode != ModeExternal:
		c.hubDevices(ps, p, path)
	case len(split) == 0 && cards > 1 && len(p.RPC) == 0:
		ps.add(at("device"), fmt.Sprintf("device lists %d GPUs, and tensor_split is missing", cards),
			"say what part of the model each holds, like tensor_split: [2, 1]; or use device: auto, which gives each replica one GPU")
	case len(split) > 0 && cards == 1:
		ps.add(at("tensor_split"), "tensor_split has no effect on one device", "remove it, or list the GPUs under device")
	case len(split) > 0 && len(split) != cards:
		ps.add(at("tensor_split"), fmt.Sprintf("tensor_split has %d parts for %d GPUs", len(split), cards), "give each GPU of device one part, in its order")
	case len(split) > 0 && p.Provisioning.Mode == ModeBuiltin:
		ps.add(at("tensor_split"), "the built-in worker cannot split a model", "use provisioning.mode binary with a llama-server")
	}
	for i, part := range split {
		if part <= 0 {
			ps.add(at(fmt.Sprintf("tensor_split[%d]", i)), "a part of tensor_split has to be above 0", "a GPU that holds nothing does not belong in device")
		}
	}
	if p.Lifecycle == LifecyclePinned && c.where.set(path+".idle_ttl") {
		ps.add(at("idle_ttl"), "idle_ttl has no effect on a pinned pool", "remove it, or set lifecycle: on_demand")
	}
}

// belongs says which modes a setting is for. A setting that is not in it is for all modes.
var belongs = map[string][]string{
	"provisioning.urls":        {ModeExternal},
	"provisioning.key_env":     {ModeExternal},
	"provisioning.path":        {ModeBinary, ModePackage},
	"provisioning.args":        servers,
	"provisioning.url":         {ModeBinary},
	"provisioning.digest":      {ModeBinary},
	"provisioning.package":     {ModePackage},
	"provisioning.image":       {ModeContainer},
	"provisioning.runtime":     {ModeContainer},
	"provisioning.repository":  {ModeSource},
	"provisioning.ref":         {ModeSource},
	"provisioning.cmake_flags": {ModeSource},
	"pace":                     {ModeBuiltin},
	"threads":                  ours,
	"device":                   ours,
	"model.digest":             ours,
	"tensor_split":             ours,
	"rpc":                      servers,
	"span":                     {ModeExternal},
	"memory":                   ours,
	"determinism.reuse":        ours,
	"determinism.piece":        ours,
	"lifecycle":                ours,
	"idle_ttl":                 ours,
}

// The modes whose workers are llama-servers, and the modes whose workers the orchestrator runs.
var (
	servers = []string{ModeBinary, ModePackage, ModeContainer, ModeSource}
	ours    = append([]string{ModeBuiltin}, servers...)
)

// only reports settings that have no effect in a pool of this mode.
func (c *Config) only(ps *problems, path, mode string) {
	for field, modes := range belongs {
		if !c.where.set(path+"."+field) || slices.Contains(modes, mode) {
			continue
		}
		why := ""
		if mode == ModeExternal && !strings.HasPrefix(field, "provisioning.") && field != "pace" {
			why = ", because its engine runs already and its files are not opened"
		}
		ps.add(c.where.of(path+"."+field), fmt.Sprintf("%s has no effect in a pool of mode %s%s", field, mode, why),
			"remove it, or set provisioning.mode to "+strings.Join(modes, " or "))
	}
}

func (c *Config) binary(ps *problems, p *Pool, path string) {
	v := &p.Provisioning
	at := func(field string) position { return c.where.of(path + ".provisioning." + field) }
	if v.URL != "" {
		c.download(ps, v, at)
		return
	}
	switch {
	case v.Digest != "":
		ps.add(at("digest"), "provisioning.digest has no effect without provisioning.url", "remove it, or name the url that it is of")
	case v.Path == "":
		ps.add(at("path"), "provisioning.path is missing", "name the program, like llama-server or /opt/llama.cpp/llama-server, or give url and digest")
	case strings.Contains(v.Path, "/"): // a name without a slash is looked up in PATH when it is started
		c.expand(ps, &v.Path, at("path"), "provisioning.path")
	}
}

// expand makes a path from the file absolute.
func (c *Config) expand(ps *problems, file *string, at position, name string) {
	full, err := expand(*file, c.Dir, c.home)
	if err != nil {
		ps.add(at, name+" cannot be found", err.Error())
		return
	}
	*file = full
}

// secureURL reports a URL that is not https, or that holds more than an address.
func secureURL(ps *problems, text, name string, at position) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") == "":
		ps.add(at, fmt.Sprintf("%s is %q, which is no https URL of a file", name, task.Clip(text, maxQuote)), "write https://HOST/PATH")
	case u.User != nil:
		ps.add(at, name+" holds credentials", "leave them out: this file is no place for secrets")
	}
}

// download checks the settings of a program that is fetched.
func (c *Config) download(ps *problems, v *Provisioning, at func(string) position) {
	secureURL(ps, v.URL, "provisioning.url", at("url"))
	if v.Digest == "" {
		ps.add(at("url"), "provisioning.digest is missing", "write the download's SHA-256 as digest: sha256:HEX, from where its maker publishes it: a program that nobody vouches for is not run")
	}
	if v.Path != "" && !filepath.IsLocal(v.Path) {
		ps.add(at("path"), fmt.Sprintf("%q leads out of what provisioning.url gives", task.Clip(v.Path, maxQuote)), "name the program's path inside the archive, like build/bin/llama-server")
	}
}

// prepared checks the settings that package, container and source need.
func (c *Config) prepared(ps *problems, p *Pool, path string) {
	v := &p.Provisioning
	at := func(field string) position { return c.where.of(path + ".provisioning." + field) }
	switch v.Mode {
	case ModePackage:
		switch {
		case v.Package == "" && !c.where.set(path+".provisioning.package"):
			ps.add(at("package"), "provisioning.package is missing", "name the package that has llama-server")
		case !c.Provision.AllowSystemPackages:
			ps.add(at("package"), "installing system packages is not allowed", "set provision.allow_system_packages: true, or install it yourself and use provisioning.mode binary")
		}
		if strings.Contains(v.Path, "/") {
			c.expand(ps, &v.Path, at("path"), "provisioning.path")
		}
	case ModeContainer:
		if v.Image == "" && !c.where.set(path+".provisioning.image") {
			ps.add(at("image"), "provisioning.image is missing", "name the image, like ghcr.io/ggml-org/llama.cpp:server")
		}
	case ModeSource:
		c.source(ps, v, at)
	}
}

func (c *Config) source(ps *problems, v *Provisioning, at func(string) position) {
	switch {
	case strings.Contains(v.Repository, "://"):
		secureURL(ps, v.Repository, "provisioning.repository", at("repository"))
	case v.Repository != "":
		c.expand(ps, &v.Repository, at("repository"), "provisioning.repository")
	}
	if strings.Contains(v.Ref, "..") {
		ps.add(at("ref"), fmt.Sprintf("provisioning.ref cannot be %q", task.Clip(v.Ref, maxQuote)), "write one branch, tag or commit")
	}
	for i, flag := range v.CMakeFlags {
		if flag != "" && !cmakeFlag().MatchString(flag) {
			ps.add(at(fmt.Sprintf("cmake_flags[%d]", i)), fmt.Sprintf("%q is no flag of this kind", task.Clip(flag, maxQuote)), "write -DNAME=VALUE, like -DGGML_CUDA=ON")
		}
	}
}

// cmakeFlag is a flag that sets a variable, and cannot be another option. It takes 3 ms to compile, which is much of a start of llama-orch (LO-945).
var cmakeFlag = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^-D[A-Za-z_][A-Za-z0-9_]{0,99}(:[A-Z]{1,16})?=[^\x00-\x1f]{0,1000}$`)
})

func (c *Config) external(ps *problems, p *Pool, path string) {
	urls := p.Provisioning.URLs
	if len(urls) == 0 && c.where.set(path+".provisioning.urls") {
		ps.add(c.where.of(path+".provisioning.urls"), "provisioning.urls is empty",
			`name at least one engine, like urls: ["http://127.0.0.1:9700"], or leave urls out where engines register themselves`)
		return
	}
	for i, text := range urls {
		at := c.where.of(fmt.Sprintf("%s.provisioning.urls[%d]", path, i))
		u, err := url.Parse(text)
		switch {
		case text == "": // was reported already
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
			ps.add(at, fmt.Sprintf("%q is no base URL", task.Clip(text, maxQuote)), "write http://HOST:PORT")
		case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
			ps.add(at, "a base URL ends after its port, and holds no credentials", "write http://HOST:PORT")
		default:
			urls[i] = u.Scheme + "://" + strings.ToLower(u.Host)
			if slices.Contains(urls[:i], urls[i]) {
				ps.add(at, urls[i]+" is named twice", "name each engine once")
			}
		}
	}
	if c.where.set(path+".replicas") && p.Replicas > 0 && p.Replicas != len(urls) {
		ps.add(c.where.of(path+".replicas"), fmt.Sprintf("replicas is %d, but provisioning.urls names %d", p.Replicas, len(urls)), "remove replicas: each URL is a replica, and each engine that registers")
	}
	p.Replicas, p.Device = len(urls), "" // we do not know its device
}

func (c *Config) model(ps *problems, p *Pool, path string) {
	m := &p.Model
	if m.Ref == "" {
		return
	}
	at := c.where.of(path + ".model.ref")
	m.Canonical = c.CanonicalRef(m.Ref)
	if p.Provisioning.Mode != ModeExternal && p.HasModel() {
		r, err := parseRef(m.Ref, c.Dir, c.home)
		if err != nil {
			ps.add(at, fmt.Sprintf("model.ref cannot be %q", task.Clip(m.Ref, maxQuote)), err.Error())
			return
		}
		m.Path = r.path()
	}
	if m.ID == "" && !c.where.set(path+".model.id") {
		if m.ID = modelName(m.Ref); !matches(modelIDPattern(), m.ID) {
			ps.add(at, fmt.Sprintf("model.id is missing, and %q, the end of model.ref, will not do as one", task.Clip(m.ID, maxQuote)), "add model.id: NAME")
		}
	}
}
