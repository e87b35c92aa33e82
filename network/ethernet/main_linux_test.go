package ethernet

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stackvm/stack/network/ethernet/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(loader{m}) }

// loader runs the tests, or the load of BenchmarkAlone.
type loader struct{ m *testing.M }

func (l loader) Run() int { return load.Main(l.m) }
