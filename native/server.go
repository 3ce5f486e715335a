package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	startTimeout = time.Minute      // recovery after a crash included
	stopTimeout  = 15 * time.Second // of a fast shutdown
	portAttempts = 5                // another process may take a free port before the server does
)

var errPortTaken = errors.New("the port is taken")

// ServerConfig says which server to run. With Binaries alone it is a server on a free port that leaves nothing behind.
type ServerConfig struct {
	// Binaries are the programs to run; see [Postgres]. Required.
	Binaries Binaries
	// Dir is the data folder. initdb fills it, by way of a neighbour Dir.initdb-*, if it is empty or missing. Default: a
	// temporary folder, removed by Stop.
	Dir string
	// Port is the TCP port on 127.0.0.1. Default: a free one.
	Port int
	// Superuser is the name that initdb gives the first role. Default: postgres.
	Superuser string
	// Password is the superuser's. Default: a random one, kept in Dir so that the server can be started again.
	Password string
	// Settings are put over those in postgresql.conf. The listening addresses and the port cannot be set here.
	Settings map[string]string
	// Log gets what the server writes to its standard error. Default: nobody gets it.
	Log io.Writer
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	binaries  Binaries
	account   account
	dir       string
	socketDir string
	temporary string // the folder to remove at the end
	settings  map[string]string

	superuser string
	password  string
	port      int
	version   int

	logTo io.Writer
	log   *tail // of the last launch
	proc  *os.Process
	done  chan struct{} // closed when the server process has ended

	stopping sync.Mutex
	stopped  bool
}

// StartServer starts a server and returns when it accepts connections. ctx bounds the start and not the server's life:
// call [Server.Stop].
func StartServer(ctx context.Context, cfg ServerConfig) (_ *Server, err error) {
	s, err := newServer(cfg)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.removeTemporary())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	if err := s.chooseFolders(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.ensureCluster(ctx); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		if err := s.choosePort(ctx, cfg.Port); err != nil {
			return nil, err
		}
		err := s.launch(ctx)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errPortTaken) || cfg.Port != 0 || attempt == portAttempts {
			return nil, err
		}
	}
}

func newServer(cfg ServerConfig) (*Server, error) {
	if cfg.Binaries.Dir == "" {
		return nil, errors.New("ServerConfig.Binaries is not set: take it from native.Postgres")
	}
	for _, name := range []string{"port", "listen_addresses", "unix_socket_directories"} {
		if _, set := cfg.Settings[name]; set {
			return nil, fmt.Errorf("ServerConfig.Settings must not set %s", name)
		}
	}
	bin, err := filepath.Abs(cfg.Binaries.Dir) // the server is run from another working directory
	if err != nil {
		return nil, err
	}
	cfg.Binaries.Dir = bin
	if cfg.Superuser == "" {
		cfg.Superuser = "postgres"
	}
	return &Server{
		binaries:  cfg.Binaries,
		settings:  maps.Clone(cfg.Settings),
		superuser: cfg.Superuser,
		password:  cfg.Password,
		logTo:     cfg.Log,
	}, nil
}

// chooseFolders fixes the data folder, the account that may use it, and a temporary folder for the socket. The socket is
// not beside the data, because that path may be longer than a socket address can hold.
func (s *Server) chooseFolders(dir string) (err error) {
	if dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if s.account, err = serverAccount(dir); err != nil {
		return err
	}
	if s.temporary, err = os.MkdirTemp(s.account.tempDir(), "scrim-pg-"); err != nil {
		return err
	}
	s.socketDir = filepath.Join(s.temporary, "s")
	if dir == "" {
		dir = filepath.Join(s.temporary, "data")
	}
	s.dir = dir
	if err := os.Mkdir(s.socketDir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{s.temporary, s.socketDir} { // whatever the umask
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		s.account.own(s.socketDir),
		s.account.canEnter(s.binaries.Dir),
		s.account.canEnter(filepath.Dir(s.dir)),
	)
}

func (s *Server) choosePort(ctx context.Context, port int) error {
	if port != 0 {
		s.port = port
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

// launch starts the server process and waits until it accepts connections. If it does not, nothing is left running.
func (s *Server) launch(ctx context.Context) error {
	cmd := exec.Command(filepath.Join(s.binaries.Dir, "postgres"), s.arguments()...) //nolint:noctx // outlives ctx
	s.account.prepare(cmd, syscall.SIGINT)
	s.log = &tail{to: s.logTo}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// Backends hold the log's pipe for a moment longer than a killed postmaster: Wait waits for them, but not for ever.
	cmd.WaitDelay = 5 * time.Second

	s.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The kernel tells the server of our death when this thread ends, so the goroutine keeps it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // why it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.proc = cmd.Process
	if err := s.awaitReady(ctx); err != nil {
		s.Kill()
		return err
	}
	return nil
}

func (s *Server) arguments() []string {
	args := []string{
		"-D", s.dir,
		"-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1",
		"-c", `unix_socket_directories="` + s.socketDir + `"`, // a list: quotes keep a comma in a path
		"-c", "log_destination=stderr",
		"-c", "logging_collector=off",
		"-c", "lc_messages=C", // awaitReady reads a message
	}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		args = append(args, "-c", name+"="+s.settings[name])
	}
	return args
}

// awaitReady connects until it works. It uses the socket, because on a port that another server took, that one would
// answer.
func (s *Server) awaitReady(ctx context.Context) error {
	cfg, err := pgconn.ParseConfig("sslmode=disable connect_timeout=5")
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port, cfg.Database = s.socketDir, uint16(s.port), "postgres"
	cfg.User, cfg.Password = s.superuser, s.password
	cfg.Fallbacks, cfg.ValidateConnect, cfg.RuntimeParams = nil, nil, nil // nothing from PG* variables

	for {
		conn, err := pgconn.ConnectConfig(ctx, cfg)
		if err == nil {
			s.version = versionNumber(conn.ParameterStatus("server_version"))
			return conn.Close(ctx)
		}
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && strings.HasPrefix(pgErr.Code, "28") {
			return fmt.Errorf("the cluster in %s was made with another superuser or password: %w", s.dir, err)
		}
		select {
		case <-s.done:
			if strings.Contains(s.log.String(), "could not bind IPv4 address") {
				return fmt.Errorf("%w: 127.0.0.1:%d: choose another, or stop what listens there", errPortTaken, s.port)
			}
			return fmt.Errorf("the server stopped at once; the end of its log:\n%s", s.log)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer (%w): %w; the end of its log:\n%s", ctx.Err(), err, s.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// versionNumber turns "18.4 (Debian 18.4-1)" into 180004, as server_version_num does.
func versionNumber(version string) int {
	var major, minor int
	_, _ = fmt.Sscanf(version, "%d.%d", &major, &minor) // "19beta1" has no minor version
	return major*10_000 + minor
}

// Stop ends the server with a fast shutdown, which rolls back what is open and ends all sessions. When that takes more
// than 15 seconds, or when ctx ends (so do not pass one that a signal has cancelled), it kills the server. Then it
// removes the temporary folder. A second call does nothing, and nor does the shutdown of a server that has ended already.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true

	var killed error
	_ = s.proc.Signal(syscall.SIGINT) // fails if it has ended, which the next lines see
	select {
	case <-s.done:
	case <-ctx.Done():
		killed = fmt.Errorf("stop PostgreSQL: killed before it had shut down: %w", ctx.Err())
	case <-time.After(stopTimeout):
		killed = fmt.Errorf("stop PostgreSQL: killed after %s; the end of its log:\n%s", stopTimeout, s.log)
	}
	s.Kill()
	return errors.Join(killed, s.removeTemporary())
}

// Kill ends the server as a crash would, with SIGKILL, and returns when its sessions are gone too. The data stays until
// Stop.
func (s *Server) Kill() {
	_ = s.proc.Kill() // fails if it has ended
	<-s.done
}

// Done is closed when the server process has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.done }

// DSN is the URL that connects as user to database db over TCP.
func (s *Server) DSN(user, password, db string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(user, password),
		Host:     s.Addr(),
		Path:     "/" + db,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Addr is where the server listens: "127.0.0.1:port".
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port is the TCP port, which is also in the socket's name.
func (s *Server) Port() int { return s.port }

// SocketDir is the folder with the server's Unix socket.
func (s *Server) SocketDir() string { return s.socketDir }

// Superuser is the name of the role that initdb made.
func (s *Server) Superuser() string { return s.superuser }

// Password is the superuser's.
func (s *Server) Password() string { return s.password }

// Version is the server's version as server_version_num has it: 180004 for 18.4.
func (s *Server) Version() int { return s.version }

func (s *Server) removeTemporary() error {
	if s.temporary == "" {
		return nil
	}
	return os.RemoveAll(s.temporary)
}

// tail passes on what is written and keeps its end for error messages.
type tail struct {
	to io.Writer

	mu  sync.Mutex
	end []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const kept = 4096
	t.end = append(t.end, b...)
	t.end = t.end[max(0, len(t.end)-kept):]
	if t.to != nil {
		_, _ = t.to.Write(b) // a log that cannot be written must not stop the server
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}
