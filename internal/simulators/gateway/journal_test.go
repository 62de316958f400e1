package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85"
)

// The test binary is also the gateway that is killed: with this variable it serves the folder it names.
const childFolder = "MILLRACE_TEST_GATEWAY_FOLDER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(childFolder); folder != "" {
		serveChild(folder)
	}
	os.Exit(m.Run())
}

func serveChild(folder string) {
	settings := quick()
	settings.Folder = folder
	g, err := Open(settings)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("http://" + socket.Addr().String())
	fmt.Println(http.Serve(socket, g))
	os.Exit(1)
}

func startChild(t *testing.T, folder string) (*shop, *exec.Cmd) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childFolder+"="+folder)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Process.Kill(); child.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if url := strings.TrimSpace(line); err == nil && strings.HasPrefix(url, "http") {
		return &shop{t: t, url: url, client: stripeClient(url, 0)}, child
	}
	t.Fatalf("the child said %q, %v", line, err)
	return nil, nil
}

const killOrders = 200

// An order as its buyer's side remembers it: the answers that came, to be compared after each crash.
type paid struct{ made, confirmed, refunded []byte }

// pay goes as far as the gateway lets it: the same steps with the same keys, however often it is called.
func (s *shop) pay(order int, p *paid) error {
	params := s.params([]string{"pm_card_visa", "pm_sim_pending", "pm_card_chargeDeclined"}[order%3], fmt.Sprintf("make-%d", order))
	params.Metadata["order_id"] = fmt.Sprint(order)
	made, err := s.client.V1PaymentIntents.Create(context.Background(), params)
	if err != nil {
		return err
	}
	if err := same(&p.made, made.LastResponse.RawJSON); err != nil {
		return err
	}
	pi, err := s.confirm(made.ID, fmt.Sprintf("pay-%d", order))
	if e := stripeError(err); e.HTTPStatusCode == http.StatusPaymentRequired {
		return same(&p.confirmed, e.LastResponse.RawJSON)
	}
	if err != nil {
		return err
	}
	if err := same(&p.confirmed, pi.LastResponse.RawJSON); err != nil || order%6 != 0 {
		return err
	}
	back, err := s.refund(made.ID, fmt.Sprintf("back-%d", order), 250)
	if err != nil {
		return err
	}
	return same(&p.refunded, back.LastResponse.RawJSON)
}

// same remembers an answer the first time and compares it afterwards.
func same(before *[]byte, now []byte) error {
	if *before != nil && !bytes.Equal(*before, now) {
		return fmt.Errorf("answered otherwise than before the crash:\n%s\n%s", *before, now)
	}
	*before = now
	return nil
}

// Killed in the middle of the load, again and again: no charge is forgotten, none is made twice, and every answer that
// was given is given again in the same bytes.
func TestKilledAndStartedAgain(t *testing.T) {
	folder := t.TempDir()
	orders := make([]paid, killOrders)
	for round := range 4 {
		s, child := startChild(t, folder)
		var acknowledged atomic.Int32
		killAt := int32(40 + 40*round)
		inParallel(8, func(worker int) {
			for n := worker; n < killOrders; n += 8 {
				if err := s.pay(n, &orders[n]); err != nil && strings.Contains(err.Error(), "otherwise") {
					t.Error(err)
				} else if err == nil && acknowledged.Add(1) == killAt {
					child.Process.Kill()
				}
			}
		})
		child.Process.Kill()
		child.Wait()
		if acknowledged.Load() < killAt {
			t.Fatalf("round %d: %d acknowledged, the kill was to come after %d", round, acknowledged.Load(), killAt)
		}
	}
	s, _ := startChild(t, folder)
	for n := range orders {
		if err := s.pay(n, &orders[n]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "pending payments to settle", func() bool { return !s.anyProcessing() })
	s.compare(orders)
}

func (s *shop) anyProcessing() bool {
	l, _ := s.ledger()
	for _, line := range l.PaymentIntents {
		if line.Status == string(processing) {
			return true
		}
	}
	return false
}

func (s *shop) compare(orders []paid) {
	s.t.Helper()
	_, lines := s.ledger()
	for n := range orders {
		got := lines[fmt.Sprint(n)]
		if len(got) != 1 {
			s.t.Fatalf("order %d has %d intents", n, len(got))
		}
		want := LedgerLine{Captured: 1250}
		if n%3 == 2 {
			want.Captured = 0
		}
		if n%6 == 0 {
			want.Refunded = 250
		}
		if got[0].Captured != want.Captured || got[0].Refunded != want.Refunded || got[0].Attempts != 1 {
			s.t.Fatalf("order %d: %+v", n, got[0])
		}
	}
}

func TestHalfALineIsDropped(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	g, err := Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	g.carryOut(createIntent{Amount: 5, Currency: "eur"}, claim{})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	appendTo(t, settings.Folder, `{"intent":{"id":"pi_half","amo`)
	s := openShop(t, settings)
	if l, _ := s.ledger(); len(l.PaymentIntents) != 1 {
		t.Fatalf("%d intents", len(l.PaymentIntents))
	}
	s.intent("") // is written behind the whole line, not behind the half one
	s.gateway.Close()
	again, err := Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if l := again.Ledger(); len(l.PaymentIntents) != 2 {
		t.Fatalf("%d intents", len(l.PaymentIntents))
	}
}

func TestDamageIsNotGuessedAway(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	for _, damage := range []string{"{\"intent\":\n", "{\"key\":{\"key\":\"k\",\"intent\":\"pi_nobody\"}}\n"} {
		os.Remove(filepath.Join(settings.Folder, "gateway.journal"))
		appendTo(t, settings.Folder, damage)
		if g, err := Open(settings); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q was read: %v %v", damage, g, err)
		}
	}
}

func appendTo(t *testing.T, folder, text string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(folder, "gateway.journal"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestOneGatewayAFolder(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	openShop(t, settings)
	if g, err := Open(settings); err == nil || !strings.Contains(err.Error(), "another gateway uses it") {
		t.Fatal(g, err)
	}
}

// A disk that no longer takes writes: nothing is acknowledged, nothing is seen, and health says so.
func TestBrokenJournal(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	s := openShop(t, settings)
	made := s.intent("pm_card_visa")
	s.gateway.journal.file.Close()
	_, err := s.confirm(made.ID, "pay")
	s.wantError(err, http.StatusInternalServerError, stripe.ErrorTypeAPI, "")
	if pi := s.look(made.ID); pi.AmountReceived != 0 {
		t.Fatal("a charge is seen that is not on disk")
	}
	response, err := http.Get(s.url + "/_simulator/health")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Fatal(response.Status)
	}
	s.gateway.journal.file, _ = os.Create(filepath.Join(t.TempDir(), "spare")) // for Close
}

// A payment that was pending when the gateway stopped settles after it starts again.
func TestPendingOutlivesARestart(t *testing.T) {
	settings := quick()
	settings.Folder = t.TempDir()
	settings.Pending = 200 * time.Millisecond
	g, err := Open(settings)
	if err != nil {
		t.Fatal(err)
	}
	told, _ := g.carryOut(createIntent{Amount: 5, Currency: "eur", Method: "pm_sim_pending", Confirm: true}, claim{})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s := openShop(t, settings)
	s.await(told.intent.ID, stripe.PaymentIntentStatusSucceeded)
}
