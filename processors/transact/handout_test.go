package transact

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What waits behind a suspect waits behind it in the next fetch, too: a partition that comes twice in one poll is held back
// from the first record that must wait, and nothing after that is handed out.
func TestSuspectsInAPartitionThatCameTwice(t *testing.T) {
	fetch := func(offsets ...int64) kgo.Fetch {
		p := kgo.FetchPartition{}
		for _, at := range offsets {
			p.Records = append(p.Records, &kgo.Record{Topic: "t", Offset: at})
		}
		return kgo.Fetch{Topics: []kgo.FetchTopic{{Topic: "t", Partitions: []kgo.FetchPartition{p}}}}
	}
	for name, step := range map[string]struct {
		suspect int64
		fetches kgo.Fetches
		alone   bool
		handed  string
		held    int64
	}{
		"in the first":           {3, kgo.Fetches{fetch(1, 2, 3), fetch(4, 5)}, false, "[1 2]", 3},
		"at the first's head":    {1, kgo.Fetches{fetch(1, 2, 3), fetch(4, 5)}, true, "[]", 2},
		"the first":              {1, kgo.Fetches{fetch(1), fetch(4, 5)}, true, "[]", 4},
		"at the second's head":   {4, kgo.Fetches{fetch(1, 2, 3), fetch(4, 5)}, false, "[1 2 3]", 4},
		"in the second":          {5, kgo.Fetches{fetch(1, 2, 3), fetch(4, 5)}, false, "[1 2 3 4]", 5},
		"behind one with nobody": {5, kgo.Fetches{fetch(), fetch(4, 5)}, false, "[4]", 5},
	} {
		e := &engine{}
		s := suspects{}
		s.blame(&kgo.Record{Topic: "t", Offset: step.suspect}, errors.New("its fault"))
		p := s.portion(e.passMarkers(step.fetches), true)
		handed := []int64{}
		for _, records := range p.hand {
			for _, r := range records {
				handed = append(handed, r.Offset)
			}
		}
		held := p.held[topicPartition{"t", 0}]
		if (p.alone != nil) != step.alone || fmt.Sprint(handed) != step.handed || held == nil || held.Offset != step.held {
			t.Errorf("%s: alone %v, handed out %v, held from %v", name, p.alone != nil, handed, held)
		}
	}
}
