package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"
)

// reportTenants prints what each tenant was shown beside what its table holds, counted by the superuser. It fails when
// anybody was shown too much or too little.
func reportTenants(ctx context.Context, out io.Writer, f *fleet, results map[string]*seen) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TENANT\tSHARD\tMODEL\tDATABASE\tTABLE\tROWS IN TABLE\tROWS SEEN\tROWS OF OTHERS SEEN")
	var wrong []string
	for _, c := range customers {
		total, err := f.count(ctx, &c)
		if err != nil {
			return err
		}
		s := results[c.ID]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", c.ID, c.Shard, c.model(), c.database(), c.table(), total, s.own, s.others)
		if s.own != c.orders || s.others != 0 {
			wrong = append(wrong, c.ID)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("these tenants did not see exactly their own orders: %v", wrong)
	}
	return nil
}

// count returns how many rows a tenant's table holds, whoever they belong to.
func (f *fleet) count(ctx context.Context, c *customer) (n int, err error) {
	db, err := sql.Open("pgx", f.shards[c.Shard].DSN("postgres", c.database()))
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	err = db.QueryRowContext(ctx, "select count(*) from "+c.table()).Scan(&n)
	return n, err
}

// reportRefusals sends the requests that must not get anything, and prints what they got.
func reportRefusals(ctx context.Context, out io.Writer, c *client) error {
	for _, try := range []struct {
		host, path, what string
		status           int
	}{
		{baseDomain, "/orders", "no tenant in the host name: the middleware refuses", http.StatusBadRequest},
		{"nobody." + baseDomain, "/orders", "a tenant that the registry does not know: the driver refuses", http.StatusNotFound},
		{"acme." + baseDomain, "/forgotten", "a handler that nobody put behind the middleware: the driver refuses", http.StatusInternalServerError},
	} {
		status, text, err := c.do(ctx, http.MethodGet, try.host, try.path, "")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  GET http://%s%s (%s)\n    %d %s\n", try.host, try.path, try.what, status, text)
		if status != try.status {
			return fmt.Errorf("GET http://%s%s: status %d instead of %d", try.host, try.path, status, try.status)
		}
	}
	return nil
}

func reportLatency(out io.Writer, near, far []measured, roundTrip time.Duration) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%-36s\tMEDIAN HERE\tMEDIAN WITH %v ROUND TRIPS\t\n", "", roundTrip)
	for i := range near {
		fmt.Fprintf(t, "%-36s\t%.3f ms\t%.3f ms\t\n", near[i].what, millis(near[i].p50), millis(far[i].p50))
	}
	return t.Flush()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
