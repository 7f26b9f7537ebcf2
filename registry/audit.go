package registry

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sharded-pg/sharded-pg/resolver"
)

// AuditEntry is one change, or one action: who made it, when, and what it did. It never holds a DSN.
type AuditEntry struct {
	ID      int64          `json:"id"`
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`           // who says to have made it, see [WithActor]
	Login   string         `json:"login,omitempty"` // the registry's login, which the actor cannot choose
	Action  string         `json:"action"`          // put_shard, add_tenant, ...
	Kind    string         `json:"kind"`            // shard, plan, tenant
	Subject string         `json:"subject"`         // name of the shard or plan, ID of the tenant
	Before  map[string]any `json:"before,omitempty"`
	After   map[string]any `json:"after,omitempty"`
	Note    string         `json:"note,omitempty"` // the reason, if the operator gave one
}

// AuditFilter says which entries to list; empty fields select all.
type AuditFilter struct {
	Kind    string
	Subject string
	Actor   string
	Before  int64 // only entries with a smaller ID: the last one of the page before
	Limit   int   // default 100
}

// Audit returns entries of the audit log, newest first.
func (a *Admin) Audit(ctx context.Context, filter AuditFilter) ([]AuditEntry, error) {
	if filter.Limit < 0 || filter.Before < 0 {
		return nil, fmt.Errorf("%w audit filter: limit and before are not negative", ErrInvalid)
	}
	for _, text := range []string{filter.Kind, filter.Subject, filter.Actor} {
		if strings.ContainsRune(text, 0) || !utf8.ValidString(text) { // PostgreSQL takes neither
			return nil, fmt.Errorf("%w audit filter: kind, subject and actor hold no NUL and are UTF-8", ErrInvalid)
		}
	}
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	return a.store.entries(ctx, filter)
}

// RecordAction puts into the audit log what an operator did to a tenant that changes nothing in the registry: to end its
// statements, for example. action is a word such as kill, details become its After, and reason is one line, which may be empty.
func (a *Admin) RecordAction(ctx context.Context, tenant, action string, details map[string]string, reason string) error {
	var p problems
	if !actionName.MatchString(action) {
		p.add("the action is %q: use small letters and _, 40 at most", cut(action))
	}
	checkReason(&p, reason)
	if err := p.err("action on tenant", tenant); err != nil {
		return err
	}
	return a.store.change(ctx, "recording what was done to tenant "+strconv.Quote(cut(tenant)), func(tx *change) error {
		if tx.refusal != nil {
			return tx.refusal
		}
		t, err := tx.tenants.get(ctx, tenant)
		if _, err = must(t, err, resolver.ErrTenantNotFound, tenant); err != nil {
			return err
		}
		entry := AuditEntry{Action: action, Kind: tenantKind.name, Subject: tenant, After: make(map[string]any), Note: reason}
		for name, value := range details {
			entry.After[name] = value
		}
		return tx.record(ctx, entry, "")
	})
}

var actionName = regexp.MustCompile(`^[a-z_]{1,40}$`)

type actorKey struct{}

// WithActor returns a context whose changes are recorded as made by actor: the user of the admin page that calls this
// package, for example. Without it changes are those of Options.Actor, and without that of the operating system's user
// and the program.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// mostReason is the longest reason in bytes.
const mostReason = 500

// checkReason is the rule for reasons: they are shown on one line.
func checkReason(p *problems, reason string) {
	if strings.ContainsFunc(reason, unicode.IsControl) || !utf8.ValidString(reason) || len(reason) > mostReason {
		p.add("the reason is no line of text: use at most %d bytes without control characters", mostReason)
	}
}

// who returns the actor of a change.
func (a *Admin) who(ctx context.Context) string {
	if actor, ok := ctx.Value(actorKey{}).(string); ok && actor != "" {
		return printable(actor)
	}
	if a.actor != "" {
		return printable(a.actor)
	}
	return defaultActor()
}

// printable makes text from outside fit for a log.
func printable(text string) string {
	text = cut(text)
	if !utf8.ValidString(text) {
		return "(not UTF-8)"
	}
	out := []rune(text)
	for i, r := range out {
		if unicode.IsControl(r) {
			out[i] = '?'
		}
	}
	return string(out)
}

var defaultActor = sync.OnceValue(func() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return printable(name + " (" + filepath.Base(os.Args[0]) + ")")
})
