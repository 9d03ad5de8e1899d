// SPDX-License-Identifier: GPL-3.0-or-later

// Package cleanroom has the target that does what the README says on a Debian that has nothing else.
package cleanroom

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/harness/debian"
)

//go:embed room.sh
var room []byte

//go:embed newcomer.sh
var newcomer []byte

// Cleanroom makes a small Debian in a folder, installs there what the README names and nothing else, and does as a user who is not root what the README says: clones
// the committed tree, runs `go tool mage up` to its haiku, and stops it with Ctrl-C (LO-886). With -test it then runs `go tool mage test` to its end, which takes an hour or two. It needs root and
// Debian, and the network as this machine has it. -keep leaves the folder.
func Cleanroom(ctx context.Context, test, keep *bool) (err error) {
	packages, err := prerequisites("README.md")
	if err != nil {
		return err
	}
	base, err := debian.Root(ctx, step.Say)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(base), "cleanroom-")
	if err != nil {
		return fmt.Errorf("making the room: %w", err)
	}
	if keep == nil || !*keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else {
		step.Say("the room stays in " + dir)
	}
	root := filepath.Join(dir, "root")
	if err := command.Run(ctx, "cp", "-a", "--reflink=auto", base, root); err != nil {
		return err
	}
	if err := furnish(ctx, root); err != nil {
		return err
	}
	bundle := filepath.Join(dir, "tree.bundle")
	if err := command.Run(ctx, "git", "bundle", "create", "-q", bundle, "HEAD"); err != nil {
		return err
	}
	goroot, err := command.Output(ctx, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	target := ""
	if test != nil && *test {
		target = "test"
	}
	addr, err := free("127.0.0.1:8080")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "room.sh"), room, 0o600); err != nil {
		return fmt.Errorf("making the room: %w", err)
	}
	// Whoever ends this ends all that is in the room.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", filepath.Join(dir, "room.sh"), root, goroot, bundle, strings.Join(packages, " "), addr, target)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the clean room: %w", err)
	}
	fmt.Printf("the clean room: all of it in %s\n", time.Since(began).Round(time.Second))
	return nil
}

// furnish puts the newcomer's script and environment into the room.
func furnish(ctx context.Context, root string) error {
	at := filepath.Join(root, "room")
	if err := os.Mkdir(at, 0o755); err != nil {
		return fmt.Errorf("making the room: %w", err)
	}
	if err := os.WriteFile(filepath.Join(at, "newcomer.sh"), newcomer, 0o755); err != nil {
		return fmt.Errorf("making the room: %w", err)
	}
	return os.WriteFile(filepath.Join(at, "env"), []byte(strings.Join(handed(ctx), "\n")+"\n"), 0o600)
}

// handed is what the newcomer's environment has of this one: how the machine reaches the network.
func handed(ctx context.Context) (env []string) {
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE"} {
		if value, err := command.Output(ctx, "go", "env", name); err == nil && value != "" {
			env = append(env, name+"="+value)
		}
	}
	if registry, err := command.Output(ctx, "npm", "config", "get", "registry"); err == nil && strings.HasPrefix(registry, "http") {
		env = append(env, "npm_config_registry="+registry)
	}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return append(env, "NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt")
}

var install = regexp.MustCompile("On Debian [^`]*`apt-get install ([a-z0-9+. -]+)`")

// prerequisites are the packages that the README has a newcomer on Debian install.
func prerequisites(readme string) ([]string, error) {
	text, err := os.ReadFile(readme)
	if err != nil {
		return nil, fmt.Errorf("finding the prerequisites: %w", err)
	}
	found := install.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\n", " "), -1)
	if len(found) != 1 {
		return nil, fmt.Errorf("the README has %d sentences that say what to install on Debian", len(found))
	}
	return strings.Fields(found[0][1]), nil
}

// free is the address, or another on this machine if somebody listens there: the room has this machine's network.
func free(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", fmt.Errorf("finding a free address: %w", err)
		}
	}
	return l.Addr().String(), l.Close()
}
