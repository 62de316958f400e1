package postgres_test

import (
	"testing"

	"github.com/millrace/millrace/internal/local/localtest"
)

func TestMain(m *testing.M) { localtest.Main(m) }
