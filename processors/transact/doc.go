// Package transact runs goka processors exactly once: inside Kafka transactions, on franz-go.
//
// Goka by itself is at-least-once. It writes its local table before Kafka has acknowledged the changelog, and commits
// offsets later and apart, so that a process that is killed decides again, on a table that already holds its own effect.
// Here a processor's emits, its table's changelog and its consumed offsets are one transaction, and its local store
// follows only what is committed.
//
//	inst, err := transact.New(transact.Config{Brokers: brokers, Dir: "/var/lib/app/ledger-0"})
//	...
//	defer inst.Close()
//	err = inst.Run(ctx, goka.DefineGroup("ledger", goka.Input(...), goka.Output(...), goka.Persist(...)))
//
// # What is promised
//
// For every record of the group's inputs, from the group's first committed offset on, a read-committed reader of the
// outputs and of the changelog sees the effect of exactly one run of its callback, in the order of its partition; and each
// callback has seen the table as all records before it, of the same input and partition, have left it. That holds through
// kill -9 at any moment, rebalances, instances that were given up for dead and come back, brokers that die, and brokers
// that are away. It rests on Kafka: acknowledged by all in-sync replicas is as durable as they are.
//
// A record that cannot be processed (its callback panics or fails, it cannot be decoded, what it emits is too large) takes
// nobody with it: its transaction is aborted, it is tried alone, and after Config.Attempts its dead letter and its offset
// are committed, with no trace of what its callback did. A broker that is away is never a reason for that.
//
// # How
//
// One client is the group's consumer and its transactional producer. The loop (engine.run) polls, hands batches of
// records to goka's partition processors, waits until their callbacks have returned, and ends the transaction; callbacks
// and engine take turns, so every transaction ends between two records. It ends when all that has arrived is processed,
// after Config.CommitInterval, or at a cap derived from it: one setting, low latency at low load, large transactions at
// high load.
//
//	poll -> goka -> callbacks -> emits, changelog -> acknowledged -> offsets -> commit -> local store
//
// Writes of the open transaction are in memory only. After the commit they go to the local store in one batch with the
// changelog offset that they reach to; after an abort they are dropped. So the store is never ahead of Kafka, and what it
// is behind is read back at the next start. Everybody but callbacks (Processor.Get, iterators) reads what is committed.
//
// Tables are read back to the last visible record, once no transaction on them is open: the last offsets of a
// transactional log are markers that nobody sees. Views on such tables need ViewOptions.
//
// # Who may run what
//
// The transactional ID and the static group membership are group and Ordinal, which must be the same after a restart:
// that is how a restarted instance ends what its predecessor left open, and gets its partitions back at once. With a Dir,
// a lock keeps a second process from it and a mark keeps another group or ordinal from it. A second instance with the
// same ID elsewhere takes over, and the first ends with ErrFenced; do not restart that one by itself.
//
// Offsets are never guessed. Whoever creates topics commits the group's first offsets (kadm.CommitAllOffsets, say);
// a partition without one, or one whose offset the log does not hold, ends the instance with ErrNoCommittedOffset or
// ErrOffsetOutOfRange. Topics are verified, not created: outputs exist, inputs and table have the same number of
// partitions, the table is compacted. Otherwise: ErrTopic.
//
// # Killed at
//
// Config.FailPoint is called at these moments. TestKilledAtEachFailurePoint/<point> kills a process there, three times,
// while commands, poisonous ones among them, keep coming; then the outcome of every command and every balance equal a
// serial replay, and each poisonous command has one dead letter.
//
//	point          what Kafka and the local store hold         what the next life does
//	before-begin   nothing of this life                        begins
//	recovering     nothing; half a table may be read back      reads on from the last whole batch
//	recovered      nothing                                     begins
//	delivered      some emits, open                            aborts them, replays
//	drained        all emits, open                             aborts them, replays
//	offsets-added  emits and offsets, open                     aborts them, replays
//	end-sent       either ended or not                         waits until it is decided, reads it back
//	committed      all, committed; the store nothing           reads the changelog's tail back
//	flushing       all; the store of some partitions           the same, for the others
//	flushed        all, everywhere                             goes on
//	aborting       emits of a failed callback, open            aborts them, replays
//	aborted        nothing of the failed transaction           replays
//	dead-lettered  the dead letter, open                       aborts it, tries the record again
//
// TestGokaAsShippedFails runs the same check over goka's own client, which fails it. TestChaosTwoInstances, TestZombie and
// TestBrokerDies kill at random, pause members for longer than their session and their transaction, and kill the broker;
// TRANSACT_CHAOS=100 makes the first one long.
//
// # Limits
//
//   - Refused with ErrUnsupported, because nobody has proven them inside transactions: goka.Join, Lookup, Loop and Visitor,
//     ctx.DeferCommit, WithHotStandby, WithRecoverAhead, WithContextWrapper. WithProducerDefaultHeaders and
//     WithNilHandling have no effect; nil values always reach the callback, as nil.
//   - A callback's context is good until it returns, on its own goroutine. A callback must not recover what it did not
//     panic; if it does, the record fails all the same.
//   - Codecs must not keep or change the bytes that they are given, nor those that they return.
//   - What a callback does elsewhere (a call, another producer) is not part of the transaction, and is done again in a
//     replay.
//   - A commit costs three round trips. Set add.partitions.to.txn.retry.backoff.ms=1 on brokers: by default each of a
//     producer's transactions waits 20 ms for the one before.
//   - A read-committed reader waits for open transactions: of a dead instance, until it is back or for
//     Config.TransactionTimeout.
//   - A static member that stops keeps its partitions for Config.SessionTimeout: restarts are quiet, scaling in is not.
//   - Goka's own statistics count batches, not records; the metrics of Config.Registerer count records.
//   - goka.Input's callback is read by reflection (internals.go): goka exports no way to it. A goka that changed this is
//     refused, not misread.
//
// # Non-obvious
//
// An emit that fails must abort. franz-go reports it to its promise and would commit the rest. Every promise here leads to
// engine.failed, which is looked at after the flush and before the offsets are sent. Sizes are compared with the topic's
// max.message.bytes in the callback, because a broker refuses batches, not records, and then nobody knows whose it was.
//
// Goka's partition processor does not survive a panic. So goka never sees one: what it passes on as a message is a signal
// that a batch waits, and the graph's callbacks run, and fail, inside ours. That also saves, for each record, goka's three
// channels, its context, its promises and its statistics.
//
// kgo.GroupTransactSession commits what was polled, not what was handed out. What must wait (the records behind a suspect,
// those that a slow callback has left) is taken out of the request by PreTxnCommitFnContext, and then sought back to.
//
// The last offset of an input that is written in transactions is a marker. A group that commits the offset after its last
// record stays before it, and when retention has then emptied the partition, stands at an offset that the log no longer
// holds. So markers are polled too and passed (engine.passMarkers): their offsets are committed with the next transaction,
// or after a second without one, and at a stop, in one of their own. That one writes to no topic, so groups that feed each
// other do not keep each other awake.
//
// A session remembers a revocation between transactions and would abort the next one for it. engine.giveUp ends an empty
// transaction to make it forget.
//
// A producer whose transaction took too long and one that was replaced get the same error. engine.stillOurs asks for a new
// epoch in the name of the old one, which the coordinator grants only to the former.
//
// The changelog is written to the partition that the record came from, not to that of its key: they differ only for a
// record that was written to the wrong one, whose table must not lose its changelog.
//
// Kafka 4.3.0 and 4.3.1 take a partition that has no leader at the moment for one that was deleted (KAFKA-20734): a broker that is
// killed alone and starts again ends transactions without their markers, and no reader gets past those. An instance that needs
// such a table ends with ErrRecoveryTimeout, which names the producer. Run another version.
//
// kadm answers from metadata that may be seconds old. A topic that was created a moment ago is asked for again.
package transact
