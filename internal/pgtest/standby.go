package pgtest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// HostsDSN returns a keyword/value connection string that names several servers or proxies, to be tried in this order.
func HostsDSN(user, database string, at ...Upstream) string {
	var dirs, ports []string
	for _, u := range at {
		dir, port := u.Socket()
		dirs, ports = append(dirs, dir), append(ports, strconv.Itoa(port))
	}
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", quote(strings.Join(dirs, ",")),
		strings.Join(ports, ","), quote(user), quote(database))
}

// StartStandby starts a hot standby that streams from a running server of the same machine: it serves reads, and becomes a
// primary with pg_promote. It is made by pg_basebackup, which packages install beside the server.
func StartStandby(ctx context.Context, primary *Server, o Options) (*Server, error) {
	o.Major = primary.Major()
	return start(ctx, o, func(ctx context.Context, s *Server) error {
		command := exec.CommandContext(ctx, primary.bin.path("pg_basebackup"), "-D", s.data(), "-h", primary.dir.path, "-p",
			strconv.Itoa(primary.port), "-U", "postgres", "-X", "stream", "-c", "fast", "-R", "--no-sync")
		command.Dir = "/"
		command.Env = serverEnv()
		command.SysProcAttr = processAttributes(s.as, false)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("pgtest: pg_basebackup of server %q: %w\n%s", primary.name, err, lastLines(out, 10))
		}
		return nil
	})
}
