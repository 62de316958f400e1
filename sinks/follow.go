package sinks

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/topics"
)

// ErrOtherLog says that a store is a copy of another log: topics of the same names, lost and made anew. Its positions
// mean nothing here, and going on from them would skip records. A person must empty the store, or find its log.
var ErrOtherLog = errors.New("the store is a copy of another log")

// follow ties the store to the log that the cluster holds. Both are waited for.
func (s *Sink) follow(ctx context.Context) error {
	return insist(ctx, s.Log, func(ctx context.Context) error {
		ids, err := s.logIDs(ctx)
		if err != nil {
			return err
		}
		return s.Store.Follow(ctx, ids)
	})
}

// logIDs are the topics' IDs, by name.
func (s *Sink) logIDs(ctx context.Context) (map[string]string, error) {
	adm, err := topics.NewAdmin(s.Brokers)
	if err != nil {
		return nil, err
	}
	defer adm.Close()
	listed, err := adm.ListTopics(ctx, s.names()...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("the topics' IDs: %w", err)
	}
	ids := map[string]string{}
	for name, topic := range listed {
		ids[name] = topic.ID.String()
	}
	return ids, nil
}
