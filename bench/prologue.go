package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/rls"
)

// prologueDesigns are the ways to give a statement its tenant in one flight, when the tenant is the same as before. The first
// is none: what it leaves in the session would be the next tenant's.
func prologueDesigns(tenant string) []design {
	value := []byte(tenant)
	quoted := "'" + strings.ReplaceAll(tenant, "'", "''") + "'"
	between := func(set func(m messages)) func(m messages) {
		return func(m messages) {
			m.named("begin")
			set(m)
			sendRead(m)
			m.named("commit")
		}
	}
	return []design{
		{"none: set for the session at its start", sendRead},
		{"set_config, prepared, in the statement's own transaction (the driver's)", func(m messages) {
			m.named("tenant", value)
			sendRead(m)
		}},
		{"the same, returning the value", func(m messages) {
			m.named("row", value)
			sendRead(m)
		}},
		{"the same, parsed each time", func(m messages) {
			m.parsed(setLocal, value)
			sendRead(m)
		}},
		{"BEGIN, set_config, prepared, and COMMIT behind", between(func(m messages) {
			m.named("tenant", value)
		})},
		{"BEGIN, SET LOCAL, and COMMIT behind", between(func(m messages) {
			m.parsed("set local " + tenantSetting + " = " + quoted)
		})},
		{"set_config, prepared, and another one for the tag", func(m messages) {
			m.named("tenant", value)
			m.named("tag", value)
			sendRead(m)
		}},
		{"tenant and tag in one statement, prepared (the driver's with sharded_tag=on)", func(m messages) {
			m.named("tagged", value, value)
			sendRead(m)
		}},
	}
}

func setTag(value string) string { return "set_config('application_name', " + value + ", true)" }

// measurePrologues prints what each design adds to a read.
func measurePrologues(ctx context.Context, out io.Writer, dsn, tenant string) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	session := strings.Replace(setLocal, "true", "false", 1)
	if err := conn.ExecParams(ctx, session, [][]byte{[]byte(tenant)}, nil, nil, nil).Read().Err; err != nil {
		return err
	}
	for name, text := range map[string]string{
		"tenant": rls.SQL(rls.Tenant, tenantSetting, false, false), "row": setLocal, "tag": "select " + setTag("$1"), "tagged": rls.SQL(rls.Tenant, tenantSetting, true, false),
		"read": readSQL, "begin": "begin", "commit": "commit",
	} {
		if _, err := conn.Prepare(ctx, name, text, nil); err != nil {
			return err
		}
	}
	return compare(ctx, out, "what the tenant adds to a point read", "prologue", prologueDesigns(tenant), func(d design) (time.Duration, error) {
		return flight(ctx, conn, d.send)
	})
}
