// SPDX-License-Identifier: GPL-3.0-or-later

package exec

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	landsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// system is what programs need of the machine: themselves, their libraries, and what libc reads.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl"}

// devices hold nothing.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// The versions of Landlock's interface from which on the kernel holds what we ask for.
const (
	abiRefer   = 2 // moves between folders; without, moves are refused
	abiTCP     = 4
	abiScoped  = 6
	abiSockets = 9
	abiUDP     = 10
)

// start starts a command on this thread, which it restricts for good: Landlock holds a thread and all that it starts. The command stops at its first
// instruction, by ptrace, until its limits are set; nothing of it runs without them.
func start(cmd *exec.Cmd, p Policy, dir string) (missing []string, err error) {
	abi, err := landsys.LandlockGetABIVersion()
	if err != nil || abi < abiRefer {
		missing = append(missing, "files, network and signals: this kernel has no Landlock that serves, so the command could do there what this user can")
	} else {
		if err := restrict(cmd.Path, p, dir); err != nil {
			return nil, fmt.Errorf("restrict it by Landlock: %w", err)
		}
		for _, one := range []struct {
			since int
			what  string
		}{
			{abiTCP, "connections by TCP"}, {abiScoped, "signals to other processes"}, {abiSockets, "Unix sockets"}, {abiUDP, "datagrams by UDP"},
		} {
			allowed := p.Net && (one.since == abiTCP || one.since == abiUDP)
			if abi < one.since && !allowed {
				missing = append(missing, fmt.Sprintf("%s: this kernel's Landlock is version %d, and holds them from %d on", one.what, abi, one.since))
			}
		}
	}
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	if err := limit(pid, p); err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_ = cmd.Wait()
		return nil, fmt.Errorf("set its limits: %w", err)
	}
	return missing, nil
}

// limit sets a stopped process's limits, and lets it go.
func limit(pid int, p Policy) error {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
	if !status.Stopped() {
		return fmt.Errorf("it ended before its first instruction: %v", status)
	}
	for resource, most := range map[int]uint64{unix.RLIMIT_AS: uint64(p.Memory), unix.RLIMIT_CORE: 0} {
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
			return err
		}
	}
	return syscall.PtraceDetach(pid)
}

// restrict restricts this thread, and what it starts from now on.
func restrict(program string, p Policy, dir string) error {
	config := landlock.V10
	if p.Net {
		config.HandledAccessNet = 0
	}
	target, err := filepath.EvalSymlinks(program)
	if err != nil {
		return err
	}
	rules := []landlock.Rule{
		landlock.RWDirs(dir).WithRefer(), landlock.ROFiles(program, target), landlock.RWFiles(devices...).IgnoreIfMissing(),
	}
	for _, path := range slices.Concat(system, p.Read) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			rules = append(rules, landlock.RODirs(path))
		} else if err == nil {
			rules = append(rules, landlock.ROFiles(path))
		}
	}
	fd, flags, err := config.BestEffort().NewRulesetFD(rules...)
	if err != nil {
		return err
	}
	if fd < 0 {
		return errors.New("it would hold nothing")
	}
	defer unix.Close(fd)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return landsys.LandlockRestrictSelf(fd, flags)
}

// await waits until a process has ended, and leaves it to be waited for: until then nobody else gets its number, nor that of its group.
func await(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
