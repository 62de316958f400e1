package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	publicSuffix  = ".public.pem"
	privateSuffix = ".private.pem"
	// lookAgain is how often the folder is looked at: a key that was removed verifies for as long.
	lookAgain = time.Second
	// clockGrain is how far a file's time may lie behind the clock.
	clockGrain = time.Second
	// goodTokensMax bounds the tokens whose signatures are remembered.
	goodTokensMax = 4096
)

var errUnknownKey = errors.New("no such key")

// Keys is a folder of Ed25519 key pairs. Every public key in it verifies; the newest private one signs. An API on
// another machine needs the public ones only. A key comes and goes with its file, a second later.
type Keys struct {
	dir string

	mu      sync.Mutex
	known   map[string]ed25519.PublicKey // by key ID
	scanned time.Time
	looked  time.Time
	good    map[[sha256.Size]byte]good // by the token's hash
}

// good is what a verified token said.
type good struct {
	caller Caller
	until  time.Time
}

// Open reads the folder's public keys. It may be empty or missing: a token of a key that comes later is looked up
// then, and the first Sign makes a pair.
func Open(dir string) (*Keys, error) {
	k := &Keys{dir: dir}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.scan()
}

// look reads the folder again if it has changed. What cannot be read in it is left out, and tried again.
func (k *Keys) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < lookAgain {
		return
	}
	k.looked = time.Now()
	if k.changed() {
		_ = k.scan()
	}
}

func (k *Keys) verified(sum [sha256.Size]byte, at time.Time) (Caller, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g, ok := k.good[sum]
	return g.caller, ok && at.Before(g.until)
}

func (k *Keys) keep(sum [sha256.Size]byte, g good) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.good) >= goodTokensMax {
		clear(k.good)
	}
	k.good[sum] = g
}

// public is the verifying key of this ID. The ID comes from the token, so it never becomes a path.
func (k *Keys) public(id string) (ed25519.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.known[id]; ok {
		return key, nil
	}
	if !k.changed() {
		return nil, errUnknownKey
	}
	err := k.scan()
	if key, ok := k.known[id]; ok {
		return key, nil
	}
	return nil, errors.Join(errUnknownKey, err)
}

// changed says whether a key may have come since the last scan; a flood of foreign tokens costs one stat each.
func (k *Keys) changed() bool {
	info, err := os.Stat(k.dir)
	if errors.Is(err, os.ErrNotExist) {
		return len(k.known) > 0 // a folder that is gone has no keys
	}
	return err == nil && info.ModTime().After(k.scanned.Add(-clockGrain))
}

// scan reads every public key. A file that is none has no tokens, and must not keep a removed key good.
func (k *Keys) scan() error {
	began := time.Now()
	paths, err := filepath.Glob(filepath.Join(k.dir, "*"+publicSuffix))
	if err != nil {
		return fmt.Errorf("auth: keys in %s: %w", k.dir, err)
	}
	known := make(map[string]ed25519.PublicKey, len(paths))
	var faults []error
	for _, path := range paths {
		key, err := readKey(path, x509.ParsePKIXPublicKey)
		public, ok := key.(ed25519.PublicKey)
		switch {
		case err != nil:
			faults = append(faults, err)
		case !ok:
			faults = append(faults, fmt.Errorf("auth: %s is no Ed25519 key", path))
		default:
			known[keyID(public)] = public
		}
	}
	k.known, k.good = known, map[[sha256.Size]byte]good{}
	if len(faults) == 0 {
		k.scanned = began
	}
	return errors.Join(faults...)
}

// signing is the newest private key, made if there is none.
func (k *Keys) signing() (string, ed25519.PrivateKey, error) {
	path, err := newest(filepath.Join(k.dir, "*"+privateSuffix))
	if err != nil {
		return "", nil, err
	}
	if path == "" {
		return k.create()
	}
	key, err := readKey(path, x509.ParsePKCS8PrivateKey)
	if err != nil {
		return "", nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return "", nil, fmt.Errorf("auth: %s is no Ed25519 key", path)
	}
	return keyID(private.Public().(ed25519.PublicKey)), private, nil
}

// create writes the public key first: a crash in between leaves one that nothing is signed with, never the reverse.
func (k *Keys) create() (string, ed25519.PrivateKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", nil, err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("auth: %w", err)
	}
	id := keyID(public)
	if err := writeKey(filepath.Join(k.dir, id+publicSuffix), "PUBLIC KEY", publicDER, 0o644); err != nil {
		return "", nil, err
	}
	if err := writeKey(filepath.Join(k.dir, id+privateSuffix), "PRIVATE KEY", privateDER, 0o600); err != nil {
		return "", nil, err
	}
	return id, private, nil
}

// keyID names a key by itself, so that two made at the same moment cannot share a name.
func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

func newest(pattern string) (string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	var found string
	var at time.Time
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("auth: %w", err)
		}
		if found == "" || info.ModTime().After(at) {
			found, at = path, info.ModTime()
		}
	}
	return found, nil
}

func readKey(path string, parse func([]byte) (any, error)) (any, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("auth: %s is no PEM file", path)
	}
	key, err := parse(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("auth: %s: %w", path, err)
	}
	return key, nil
}

// writeKey makes the file whole or not at all.
func writeKey(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+strings.TrimSuffix(filepath.Base(path), ".pem")+"-*")
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	defer os.Remove(f.Name())
	err = errors.Join(f.Chmod(mode), pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("auth: write %s: %w", path, err)
	}
	return nil
}
