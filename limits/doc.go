// Package limits decides who may use a shard's connections now. It is the one place in the system where a statement
// waits, and where it is refused for the sake of other tenants.
//
// [Slots] are the rights to use one connection of a shard each. A tenant has at most as many as its plan says, and never
// more than its share of the shard; beyond that its statements wait in a queue of their own, first in, first out. Across
// tenants the order is weighted and fair:
//
// # The order
//
// Time is cut into rounds. A waiting tenant stands in the round in which its next turn is due, and a turn costs it 1/weight
// of a round, so that a tenant of weight 4 has four turns where one of weight 1 has one. Slots are not packets: what counts
// is also for how long they were held. While somebody waits, a tenant pays for that time when it gives a slot back, another
// turn for each 10 ms. What it owes then puts its next turn into a later round.
//
// This is start-time fair queueing with a depth, SFQ(D) (Jin, Chase, Kaur: Interposed proportional sharing for a storage
// service utility, SIGMETRICS 2004), with start tags cut to whole rounds, inside which tenants take turns as in deficit
// round robin (Shreedhar, Varghese: Efficient fair queueing using deficit round robin, SIGCOMM 1995). The rounds are a ring
// of lists under one word of bits, so the next turn is found by one instruction: no operation depends on how many tenants
// or statements wait, and none starts a goroutine. What a tenant owes beyond the ring's 64 rounds is forgiven, therefore
// nobody waits for more than that many rounds, whatever was done before.
//
// A tenant that neither holds nor waits for a slot takes no memory once its debt is paid.
//
// # Rates
//
// A [RateLimiter] counts statements. Above the rate of its plan a statement is refused before it asks for a slot. Inside a
// transaction nothing is refused, since that would lose work already done: its statements are counted as debt, and the
// tenant's next statement outside pays for them.
package limits
