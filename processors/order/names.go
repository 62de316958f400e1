package order

import "fmt"

func (s Status) String() string {
	return name(int(s), "NONE", "DRAFT", "RESERVING", "PAYMENT_PENDING", "PAID", "REFUNDING", "CANCELLING", "REJECTED",
		"CANCELLED", "PAYMENT_FAILED", "REFUNDED")
}

func (s LineStatus) String() string {
	return name(int(s), "NONE", "UNASKED", "ASKED", "HELD", "REFUSED", "RELEASED", "SHIPPED")
}

func (p PaymentStatus) String() string {
	return name(int(p), "NONE", "REQUESTED", "CREATED", "PENDING", "SUCCEEDED", "DECLINED", "CANCELED", "REFUNDED",
		"REFUNDING")
}

func (r Reason) String() string {
	return name(int(r), "NONE", "OUT_OF_STOCK", "UNKNOWN_SKU", "CANCELLED_BY_REQUEST", "PAYMENT_DECLINED",
		"PAYMENT_DEADLINE", "RESERVATION_DEADLINE", "IDEMPOTENCY_MISMATCH", "STATE_CONFLICT", "NOT_FOUND",
		"TOO_MANY_COMMANDS", "PAYMENT_REFUSED")
}

func (s Step) String() string {
	return name(int(s), "NONE", "CREATE", "CONFIRM", "POLL", "CANCEL", "REFUND")
}

func (o Outcome) String() string {
	return name(int(o), "NONE", "CREATED", "PENDING", "SUCCEEDED", "DECLINED", "CANCELED", "REFUNDED", "UNAVAILABLE",
		"REFUSED")
}

func (d Delay) String() string {
	return name(int(d), "NONE", "HOLD", "PAYMENT", "POLL", "RETRY", "FORGET")
}

func name(n int, names ...string) string {
	if n < len(names) {
		return names[n]
	}
	return fmt.Sprintf("UNKNOWN_%d", n)
}
