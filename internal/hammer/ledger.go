package hammer

import (
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// entry is a write: whose, and how it went.
type entry struct {
	tenant
	how string
}

// ledger holds what is known of each write, by its token.
type ledger struct {
	mu     sync.Mutex
	next   int
	acked  map[string]entry // the driver said that it was committed
	unsure map[string]entry // an error came back; it may have been committed
	denied map[string]entry // rolled back, or never sent: must not be there
	past   map[string]entry // written past a COMMIT, where no tenant is in force: may be its writer's ghost's
}

func (l *ledger) init() {
	l.acked, l.unsure = make(map[string]entry), make(map[string]entry)
	l.denied, l.past = make(map[string]entry), make(map[string]entry)
}

// token returns a new one.
func (l *ledger) token(tn tenant) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return fmt.Sprintf("%s/%d", tn.id, l.next)
}

func (l *ledger) note(in map[string]entry, tn tenant, tokens ...string) {
	l.record(in, entry{tn, ""}, tokens)
}

func (l *ledger) record(in map[string]entry, e entry, tokens []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, token := range tokens {
		in[token] = e
	}
}

// written says what became of a write by the error that came back.
func (l *ledger) written(tn tenant, what string, err error, tokens ...string) {
	if err == nil {
		l.record(l.acked, entry{tn, what + " reported success"}, tokens)
		return
	}
	in := l.unsure
	if pgconn.SafeToRetry(err) { // who believes that and tries again writes twice, if it is not so
		in = l.denied
	}
	l.record(in, entry{tn, fmt.Sprintf("%s reported %v", what, err)}, tokens)
}
