// SPDX-License-Identifier: GPL-3.0-or-later

package agents

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/llama-orch/llama-orch/harness/scripted"
)

// handbookURL is the address that the handbook's configurations name. The tests put their daemon's in its place.
const handbookURL = "http://127.0.0.1:8080"

// agent is one agent, and how it is pointed at the daemon.
type agent struct {
	name string
	// env and files configure it, word for word as .docs/fronts.md has them. files are by their paths in the HOME.
	env   []string
	files map[string]string
	// quiet switches off what an agent in a test needs not: telemetry and updates.
	quiet []string
	// command runs it on a prompt, which is put behind.
	command func(packages string) []string
	// write and read are the calls of its tools that put a text into a file, and show the file.
	write func(file, text string) scripted.Call
	read  func(file string) scripted.Call
}

var agents = []agent{
	{
		name: "Claude Code",
		env: []string{
			"ANTHROPIC_BASE_URL=" + handbookURL,
			"ANTHROPIC_AUTH_TOKEN=any",
			"ANTHROPIC_MODEL=coder",
			"ANTHROPIC_SMALL_FAST_MODEL=coder",
			"CLAUDE_CODE_MAX_CONTEXT_TOKENS=131072",
		},
		quiet: []string{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_TELEMETRY=1", "DISABLE_ERROR_REPORTING=1", "DISABLE_AUTOUPDATER=1"},
		command: func(packages string) []string {
			return []string{filepath.Join(packages, "@anthropic-ai", "claude-code-"+system(), "claude"), "--permission-mode", "acceptEdits", "-p"}
		},
		write: func(file, text string) scripted.Call { return call("Write", "file_path", file, "content", text) },
		read:  func(file string) scripted.Call { return call("Read", "file_path", file) },
	},
	{
		name: "Codex",
		files: map[string]string{".codex/config.toml": `model = "coder"
model_provider = "lab"
model_context_window = 131072

[model_providers.lab]
name = "lab"
base_url = "http://127.0.0.1:8080/v1"
wire_api = "responses"
`},
		command: func(packages string) []string {
			return []string{
				filepath.Join(packages, ".bin", "node"), filepath.Join(packages, "@openai", "codex", "bin", "codex.js"), "exec",
				"-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false", "--skip-git-repo-check", "--sandbox", "danger-full-access",
			}
		},
		write: func(file, text string) scripted.Call {
			return call("exec_command", "cmd", fmt.Sprintf("printf %%s '%s' >'%s'", text, file))
		},
		read: func(file string) scripted.Call { return call("exec_command", "cmd", fmt.Sprintf("cat '%s'", file)) },
	},
	{
		name: "opencode",
		files: map[string]string{".config/opencode/opencode.json": `{
  "$schema": "https://opencode.ai/config.json",
  "model": "lab/coder",
  "small_model": "lab/coder",
  "provider": {
    "lab": {
      "npm": "@ai-sdk/openai-compatible",
      "options": {"baseURL": "http://127.0.0.1:8080/v1", "apiKey": "any"},
      "models": {"coder": {"limit": {"context": 131072, "output": 32000}}}
    }
  }
}
`},
		quiet: []string{"OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_MODELS_FETCH=1", "OPENCODE_DISABLE_LSP_DOWNLOAD=1"},
		command: func(packages string) []string {
			return []string{filepath.Join(packages, "opencode-"+system(), "bin", "opencode"), "run"}
		},
		write: func(file, text string) scripted.Call { return call("write", "filePath", file, "content", text) },
		read:  func(file string) scripted.Call { return call("read", "filePath", file) },
	},
	{
		name: "Qwen Code",
		env: []string{
			"OPENAI_BASE_URL=" + handbookURL + "/v1",
			"OPENAI_API_KEY=any",
			"OPENAI_MODEL=coder",
		},
		quiet: []string{"QWEN_TELEMETRY_ENABLED=false", "QWEN_CODE_SUPPRESS_YOLO_WARNING=1"},
		command: func(packages string) []string {
			return []string{filepath.Join(packages, ".bin", "node"), filepath.Join(packages, "@qwen-code", "qwen-code", "cli-entry.js"), "--auth-type", "openai", "-y", "-p"}
		},
		write: func(file, text string) scripted.Call { return call("write_file", "file_path", file, "content", text) },
		read:  func(file string) scripted.Call { return call("read_file", "file_path", file) },
	},
}

// system is how npm packages with programs name this machine's.
func system() string {
	return runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
}

// call makes a call from names and values of its arguments.
func call(name string, arguments ...string) scripted.Call {
	values := map[string]string{}
	for i := 0; i < len(arguments); i += 2 {
		values[arguments[i]] = arguments[i+1]
	}
	data, _ := json.Marshal(values) // texts always encode
	return scripted.Call{Name: name, Arguments: string(data)}
}
