package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/internal/suites/adapter"
)

// variants are what each suite runs on, the one to compare with first.
var variants = []string{adapter.Plain, adapter.Through, adapter.Chaos}

// testTimeout bounds one run of a suite's tests.
const testTimeout = 4 * time.Minute

// database and login of the tests. The login may make tables, schemas and databases, and is no superuser: the driver refuses
// those.
const (
	database = "suite"
	login    = "suite"
)

// test runs a suite in one variant on a server of its own, so that nothing of another run is there.
func (w workspace) test(ctx context.Context, s suite, variant string) (_ *outcomes, err error) {
	server, err := pgtest.Start(ctx, pgtest.Options{
		Name: s.Name, TCP: true, Settings: map[string]string{"max_connections": "500"},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	err = server.Exec(ctx, "postgres", "create role "+login+" login createdb", "create database "+database+" owner "+login)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("postgres://%s:none@%s/%s?sslmode=disable", login, server.Addr(), database)

	args := []string{"test", "-json", "-count=1", "-vet=off", "-p=1", "-timeout=" + testTimeout.String()}
	if s.Run != "" {
		args = append(args, "-run="+s.Run)
	}
	if s.Skip != "" {
		args = append(args, "-skip="+s.Skip)
	}
	args = append(args, s.Packages...)
	for _, arg := range s.Args {
		args = append(args, strings.ReplaceAll(arg, "${URL}", url))
	}
	command := exec.CommandContext(ctx, "go", args...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.Dir = w.suite()
	command.Env = append(os.Environ(), "GOWORK="+w.file(), "GOFLAGS=",
		adapter.Variable+"="+variant, adapter.URL+"="+url, adapter.Proof+"="+w.proof(variant))
	for name, value := range s.Env {
		command.Env = append(command.Env, name+"="+strings.ReplaceAll(value, "${URL}", url))
	}
	if err := os.RemoveAll(w.proof(variant)); err != nil { // of an earlier run in this folder
		return nil, err
	}
	var out, problem bytes.Buffer
	command.Stdout, command.Stderr = &out, &problem
	runErr := command.Run()
	o, err := read(&out)
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(o.broken) > 0 || len(o.ended) == 0:
		return nil, fmt.Errorf("%s, %s: tests did not run: %w\n%s%s", s.Name, variant, runErr, strings.Join(o.broken, ""), problem.String())
	}
	if _, err := os.Stat(w.proof(variant)); variant != adapter.Plain && err != nil {
		return nil, fmt.Errorf("%s, %s: nothing went through the driver; the patches miss where the suite opens its database", s.Name, variant)
	}
	o.major = server.Major()
	return o, nil
}

func (w workspace) proof(variant string) string { return filepath.Join(w.dir, "proof-"+variant) }
