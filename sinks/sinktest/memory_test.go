package sinktest_test

import (
	"testing"

	"github.com/millrace/millrace/sinks"
	"github.com/millrace/millrace/sinks/sinktest"
)

func TestMemory(t *testing.T) {
	sinktest.Run(t, func(*testing.T) sinktest.Subject {
		place := sinks.Place{Topic: "events", Partition: 3}
		m := sinktest.NewMemory(place)
		return sinktest.Subject{
			Store:    m,
			Place:    place,
			Value:    func(key string, version int64) any { return sinktest.Event{Key: key, Version: version} },
			Refused:  func(key string, version int64) any { return sinktest.Event{Key: key, Version: version, Bad: true} },
			Contents: func(testing.TB) string { return m.Contents() },
			Break:    func(testing.TB) { m.SetGone(true) },
			Mend:     func(testing.TB) { m.SetGone(false) },
		}
	})
}
