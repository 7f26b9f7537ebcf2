package backend

// Stats counts what a pool did. Lane1 and Lane3 are transactions that flew without and with a reset in front; Resets are
// those sent at release.
type Stats struct {
	Open, Idle                     int
	Lane1, Lane3, Resets           int64
	Connects, ConnectErrors, Drops int64

	Down    bool  // the last attempts to connect failed: the shard's tenants are refused without waiting
	Outages int64 // how often that was found
}

// Stats returns the counts up to now.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{
		Open: p.open, Idle: len(p.idle), Lane1: p.lanes.direct.Load(), Lane3: p.lanes.reset.Load(),
		Resets: p.lanes.eager.Load(), Connects: p.connects.Load(), ConnectErrors: p.connectErrors.Load(),
		Drops: p.drops.Load(), Down: p.breaker.down.Load() != nil, Outages: p.breaker.outages.Load(),
	}
}
