// Package timers makes the order's timers go off: a record of order.delays.<delay>.v1 is written again, to
// order.timeouts.v1, when it is due. Who sets timers and what they mean is processors/order; a timer that is no longer
// wanted goes off all the same and is ignored there, by its generation.
//
// A record is due at its append time plus its topic's delay. Within a partition all wait equally long, so records are
// due in log order: it is enough to read a little ahead and to wait for the head. Every partition has its own head, so
// that a timer of two seconds never waits behind one of fifteen minutes, and memory depends on the number of
// partitions, not of timers.
//
// # Exactly once
//
// What is due goes out in a Kafka transaction together with the offsets that it moves, and only those: records that
// were read ahead stay uncommitted. The transaction is begun when everything in it is due, and ended at once. The
// transactional ID is the group's name and the instance's ordinal, so that an instance that comes back ends what a
// crash left open; two running instances with one ordinal are an error, ErrFenced, for one of them.
//
// A timer goes off exactly once for a read-committed reader, through crashes, rebalances and broker restarts. Its ce_id
// follows from the record that set it.
//
// # Clocks
//
// Append times are the partition leader's, the clock that says "now" is this machine's. The two are assumed to agree
// to well below the shortest delay: a timer goes off that much early or late. After a change of leaders a record may
// carry an earlier time than the one before it; it waits for its turn, and is late by the difference of the two clocks.
// When nobody runs, timers are late, and go off in order afterwards.
//
// Records that are no timers of their topic go to timers.dlq.v1 in the same transactions.
package timers
