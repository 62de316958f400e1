package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestATokenSaysWhoIsCalling(t *testing.T) {
	keys := open(t, t.TempDir())
	token, err := keys.Sign(Caller{User: "ada", Roles: []Role{Customer, Seller}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	if c.User != "ada" || !c.Is(Seller) || !c.Is(Operator, Customer) || c.Is(Operator) {
		t.Fatalf("verified as %+v", c)
	}
}

// TestAnotherProcessMakesTheKey: the API is up before the first token is minted.
func TestAnotherProcessMakesTheKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	api, cli := open(t, dir), open(t, dir)
	token, err := cli.Sign(Caller{User: "ada", Roles: []Role{Customer}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Verify(token); err != nil {
		t.Fatalf("the API does not see the new key: %v", err)
	}
	again, err := cli.Sign(Caller{User: "bob", Roles: []Role{Customer}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Verify(again); err != nil || len(api.known) != 1 {
		t.Fatalf("the second token: %v, with %d keys; want the same one key", err, len(api.known))
	}
	private, err := filepath.Glob(filepath.Join(dir, "*"+privateSuffix))
	if err != nil || len(private) != 1 {
		t.Fatalf("private keys: %v, %v", private, err)
	}
	info, err := os.Stat(private[0])
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Fatalf("the private key has mode %v", info.Mode())
	}
}

func TestRefusals(t *testing.T) {
	keys, other := open(t, t.TempDir()), open(t, t.TempDir())
	good, err := keys.Sign(Caller{User: "ada", Roles: []Role{Customer}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Sign(Caller{User: "ada", Roles: []Role{Operator}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, private, err := keys.signing()
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(d)) }
	signed := func(method jwt.SigningMethod, key any, c jwt.Claims) string {
		token := jwt.NewWithClaims(method, c)
		token.Header["kid"] = id
		s, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ours := func(c claims) string { return signed(jwt.SigningMethodEdDSA, private, c) }
	head, rest, _ := strings.Cut(good, ".")
	_, signature, _ := strings.Cut(rest, ".")
	for name, c := range map[string]struct {
		token string
		want  Reason
	}{
		"not a token":        {"hello", TokenMalformed},
		"empty":              {"", TokenMalformed},
		"far too long":       {strings.Repeat("a", maxTokenBytes+1), TokenMalformed},
		"expired":            {ours(claims{[]Role{Customer}, jwt.RegisteredClaims{Subject: "ada", ExpiresAt: at(-time.Second)}}), TokenExpired},
		"never expires":      {ours(claims{[]Role{Customer}, jwt.RegisteredClaims{Subject: "ada"}}), TokenInvalid},
		"no user":            {ours(claims{[]Role{Customer}, jwt.RegisteredClaims{ExpiresAt: at(time.Hour)}}), TokenInvalid},
		"no roles":           {ours(claims{nil, jwt.RegisteredClaims{Subject: "ada", ExpiresAt: at(time.Hour)}}), TokenInvalid},
		"unknown role":       {ours(claims{[]Role{"god"}, jwt.RegisteredClaims{Subject: "ada", ExpiresAt: at(time.Hour)}}), TokenInvalid},
		"another's key":      {foreign, TokenInvalid},
		"tampered":           {head + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"eve","roles":["operator"],"exp":9999999999}`)) + "." + signature, TokenInvalid},
		"cut":                {good[:len(good)-4], TokenInvalid},
		"none":               {signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims{[]Role{Operator}, jwt.RegisteredClaims{Subject: "eve", ExpiresAt: at(time.Hour)}}), TokenInvalid},
		"HMAC of public key": {signed(jwt.SigningMethodHS256, []byte(private.Public().(ed25519.PublicKey)), claims{[]Role{Operator}, jwt.RegisteredClaims{Subject: "eve", ExpiresAt: at(time.Hour)}}), TokenInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := keys.Verify(c.token)
			var r Refusal
			if !errors.As(err, &r) || r.Reason != c.want {
				t.Fatalf("verified as %+v, %v; want %s", who, err, c.want)
			}
		})
	}
}

// TestAGoodTokenExpires although its signature is remembered.
func TestAGoodTokenExpires(t *testing.T) {
	keys := open(t, t.TempDir())
	token, err := keys.Sign(Caller{User: "ada", Roles: []Role{Customer}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Verify(token); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(token))
	if c, ok := keys.verified(sum, time.Now().Add(59*time.Minute)); !ok || c.User != "ada" {
		t.Errorf("remembered as %+v, %t", c, ok)
	}
	if c, ok := keys.verified(sum, time.Now().Add(time.Hour)); ok {
		t.Errorf("still good: %+v", c)
	}
	for i := range 2 * goodTokensMax {
		keys.keep([sha256.Size]byte{byte(i), byte(i >> 8)}, good{})
	}
	if len(keys.good) > goodTokensMax {
		t.Errorf("%d tokens are remembered", len(keys.good))
	}
}

// TestAKeyIsTakenBack: whoever removes a public key ends its tokens, those that have been seen before, too.
func TestAKeyIsTakenBack(t *testing.T) {
	for name, remove := range map[string]func(dir, public string) error{
		"the file":   func(_, public string) error { return os.Remove(public) },
		"the folder": func(dir, _ string) error { return os.RemoveAll(dir) },
		"a file beside trash": func(dir, public string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "trash"+publicSuffix), []byte("trash"), 0o644), os.Remove(public))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			keys := open(t, dir)
			token, err := keys.Sign(Caller{User: "mallory", Roles: []Role{Operator}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keys.Verify(token); err != nil {
				t.Fatal(err)
			}
			public, err := filepath.Glob(filepath.Join(dir, "*"+publicSuffix))
			if err != nil || len(public) != 1 {
				t.Fatalf("public keys: %v, %v", public, err)
			}
			if err := remove(dir, public[0]); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * lookAgain); ; time.Sleep(lookAgain / 10) {
				var refused Refusal
				if _, err := keys.Verify(token); errors.As(err, &refused) && refused.Reason == TokenInvalid {
					return
				}
				if time.Now().After(end) {
					t.Fatal("the token of a key that is gone is still good")
				}
			}
		})
	}
}

func TestBearer(t *testing.T) {
	for header, want := range map[string]Reason{"": TokenMissing, "Basic YTpi": TokenMalformed, "Bearer ": TokenMalformed, "Bearer": TokenMalformed} {
		h := http.Header{}
		h.Set("Authorization", header)
		if header == "" {
			h.Del("Authorization")
		}
		_, err := Bearer(h)
		var r Refusal
		if !errors.As(err, &r) || r.Reason != want {
			t.Errorf("%q: %v, want %s", header, err, want)
		}
	}
	h := http.Header{"Authorization": {"bearer abc"}}
	if token, err := Bearer(h); err != nil || token != "abc" {
		t.Errorf("%q, %v", token, err)
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	keys := open(t, t.TempDir())
	for name, c := range map[string]struct {
		caller Caller
		ttl    time.Duration
	}{
		"no role":     {Caller{User: "ada"}, time.Hour},
		"odd user":    {Caller{User: "-", Roles: []Role{Customer}}, time.Hour},
		"no life":     {Caller{User: "ada", Roles: []Role{Customer}}, 0},
		"a long life": {Caller{User: "ada", Roles: []Role{Customer}}, 2 * MaxTTL},
	} {
		if _, err := keys.Sign(c.caller, c.ttl); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestABrokenKeyFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	b := make([]byte, 32)
	rand.Read(b)
	if err := os.WriteFile(filepath.Join(dir, "x"+publicSuffix), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "x"+publicSuffix) {
		t.Fatalf("opened with %v", err)
	}
}

func open(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
