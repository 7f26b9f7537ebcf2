// Command demo shows sharded-pg at work: it starts a registry and two shards, serves an orders API for tenants in all
// isolation models through one *sql.DB, sends it requests of all tenants at once and prints who saw what.
//
//	go run ./internal/demo          about ten seconds, leaves nothing behind
//	go run ./internal/demo --keep   goes on serving until Ctrl-C
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
)

func main() {
	keep := flag.Bool("keep", false, "go on serving until Ctrl-C")
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve with --keep")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if !*keep {
		*addr = "127.0.0.1:0"
	}
	err := run(ctx, os.Stdout, *addr, *keep)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, addr string, keep bool) (err error) {
	var listenConfig net.ListenConfig
	listener, err := listenConfig.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --addr", err)
	}
	defer func() { _ = listener.Close() }()

	began := time.Now()
	f, err := startFleet(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	fmt.Fprintf(out, "Started a registry and shards %v (PostgreSQL %d), with %d tenants, in %v.\n",
		shardNames, f.registry.Major(), len(customers), since(began))

	// This is all that the service knows of the fleet.
	db, err := sql.Open("sharded-pg", f.registry.DSN(routerLogin, registryDatabase))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil { // without a tenant it asks the registry
		return err
	}
	server := &http.Server{Handler: newHandler(db), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, server.Shutdown(ctx))
	}()

	if err := show(ctx, out, f, newClient(listener.Addr().String())); err != nil {
		return err
	}
	if !keep {
		fmt.Fprint(out, "\nTo keep it running and send requests of your own: script/demo --keep\n")
		return nil
	}
	fmt.Fprintf(out, `
Serving until Ctrl-C. In another terminal:
  curl -H 'Host: acme.localhost' http://%[1]s/orders
  curl -H 'Host: globex.localhost' http://%[1]s/orders -d '{"item": "anvil", "quantity": 2}'
  curl http://%[1]s/forgotten
`, listener.Addr())
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "\nStopping.")
		return nil
	case err := <-served:
		return err
	}
}

// roundTrip is how long a message and its answer take on the slow line of the comparison.
const roundTrip = time.Millisecond

// show sends the requests and prints what came of them.
func show(ctx context.Context, out io.Writer, f *fleet, c *client) error {
	defer c.http.CloseIdleConnections()
	began := time.Now()
	results, requests, err := c.run(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Sent %d HTTP requests of all tenants at once, in %v: one service, one *sql.DB.\n\n", requests, since(began))
	if err := reportTenants(ctx, out, f, results); err != nil {
		return err
	}

	fmt.Fprint(out, "\nRefused:\n")
	if err := reportRefusals(ctx, out, c); err != nil {
		return err
	}

	fmt.Fprint(out, "\nReading one row by its key, one request at a time:\n")
	eu := f.shards["eu"]
	near, err := compare(ctx, eu.DSN(appLogin, mainDatabase), rounds)
	if err != nil {
		return err
	}
	proxy, err := pgtest.StartProxy(ctx, eu)
	if err != nil {
		return err
	}
	defer func() { _ = proxy.Stop() }()
	proxy.SetDelay(roundTrip / 2)
	far, err := compare(ctx, proxy.DSN(appLogin, mainDatabase), farRounds)
	if err != nil {
		return err
	}
	return reportLatency(out, near, far, roundTrip)
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
