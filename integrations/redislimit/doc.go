// Package redislimit enforces the rates of plans over all programs of a fleet together, by counting in Redis.
//
//	limiter, err := redislimit.New(redislimit.Config{
//		Redis:    &redis.UniversalOptions{Addrs: []string{"redis:6379"}},
//		Programs: 12, // that share the rates
//	})
//	cfg, err := shardedpg.ParseDSN(os.Getenv("REGISTRY_DSN"))
//	cfg.RateLimiter = limiter
//	connector, err := shardedpg.NewConnector(cfg)
//
// Redis keeps one timestamp for each tenant (GCRA, the generic cell rate algorithm), by its own clock. A program in which a
// tenant is fast fetches up to the statements of 50 ms at once, and remembers a refusal for as long as it holds: neither a
// fast tenant nor one that is refused asks Redis for each statement. What was fetched and is not used within a second is lost.
//
// # Without Redis
//
// Redis gone or slow stops no statement. One that has to ask waits for [Config.Timeout] at most. From then on, for a second
// at a time, nobody asks: each program enforces its own share, which is the rate divided by [Config.Programs]. [Limiter.Stats]
// says so. A Redis that was emptied begins with full bursts.
//
// # Transactions
//
// Statements inside transactions are counted and never refused, as in process: what they take too much is told to Redis with
// the tenant's next question, and paid by its next ones in all programs, up to [limits.MaxDebt]. Without Redis they are paid by those of
// the same program.
package redislimit
