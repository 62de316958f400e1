package timers

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/topics"
)

func TestConfigThatContradictsItself(t *testing.T) {
	good := func() Config {
		return Config{Brokers: []string{"nowhere:1"}, Topics: topics.New(topics.Options{}), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Config){
		"no brokers":         func(c *Config) { c.Brokers = nil },
		"no topics":          func(c *Config) { c.Topics = nil },
		"no log":             func(c *Config) { c.Log = nil },
		"no metrics":         func(c *Config) { c.Metrics = nil },
		"a negative ordinal": func(c *Config) { c.Ordinal = -1 },
		"negative time":      func(c *Config) { c.SessionTimeout = -time.Second },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was let in", what)
		}
	}
}
