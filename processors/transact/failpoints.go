package transact

// Named moments at which a process may die. Config.FailPoint is called with them, so that tests can kill there; the table
// in the package documentation says what must hold at each.
const (
	BeforeBegin  = "before-begin"  // the predecessor is fenced, nothing is joined or read
	Recovering   = "recovering"    // a table is being read back
	Recovered    = "recovered"     // the tables are read, nothing is handed out
	Delivered    = "delivered"     // records are handed to callbacks, some of which may have run
	Drained      = "drained"       // every callback has run, its emits are acknowledged, nothing is ended
	OffsetsAdded = "offsets-added" // the offsets are part of the transaction, which is not ended
	EndSent      = "end-sent"      // the commit or abort is written to the coordinator and not answered
	Committed    = "committed"     // Kafka has committed, the local store knows nothing of it
	Flushing     = "flushing"      // the local store of one partition is written, that of the others is not
	Flushed      = "flushed"       // the local store is written
	Aborting     = "aborting"      // a callback failed: the transaction is about to be aborted
	Aborted      = "aborted"       // it is aborted, nothing is replayed
	DeadLettered = "dead-lettered" // a dead letter is acknowledged, its transaction is not ended
)

// FailPoints lists them all.
func FailPoints() []string {
	return []string{BeforeBegin, Recovering, Recovered, Delivered, Drained, OffsetsAdded, EndSent, Committed, Flushing,
		Flushed, Aborting, Aborted, DeadLettered}
}
