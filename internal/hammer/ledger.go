package hammer

import (
	"fmt"
	"sync"
)

// ledger holds what is known of each write, by its token.
type ledger struct {
	mu     sync.Mutex
	next   int
	acked  map[string]tenant // the driver said that it was committed
	unsure map[string]tenant // an error came back; it may have been committed
	denied map[string]tenant // rolled back, or never run: must not be there
	past   map[string]tenant // written past a COMMIT, where no tenant is in force: may be its writer's ghost's
}

func (l *ledger) init() {
	l.acked, l.unsure = make(map[string]tenant), make(map[string]tenant)
	l.denied, l.past = make(map[string]tenant), make(map[string]tenant)
}

// token returns a new one.
func (l *ledger) token(tn tenant) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return fmt.Sprintf("%s/%d", tn.id, l.next)
}

func (l *ledger) note(in map[string]tenant, tn tenant, tokens ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, token := range tokens {
		in[token] = tn
	}
}

// written says what became of a write by the error that came back.
func (l *ledger) written(tn tenant, err error, tokens ...string) {
	if err == nil {
		l.note(l.acked, tn, tokens...)
		return
	}
	l.note(l.unsure, tn, tokens...)
}
