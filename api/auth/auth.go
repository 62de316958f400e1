// Package auth says who is calling: tokens (JWT, Ed25519), the roles in them, and the keys that sign and verify them.
// Package api turns its refusals into errors of the wire and decides what each role may do.
package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Role is what a caller may be.
type Role string

// The roles. An operator may do what the others may.
const (
	Customer Role = "customer" // places orders, sees their own
	Seller   Role = "seller"   // moves the stock of their own SKUs
	Analyst  Role = "analyst"  // sees all stock, moves none
	Operator Role = "operator" // everything, on anybody's behalf
)

// Roles are all there are.
var Roles = []Role{Customer, Seller, Analyst, Operator}

// Caller is who a verified token says is calling.
type Caller struct {
	User  string
	Roles []Role
}

// Is says whether the caller has one of the roles.
func (c Caller) Is(any ...Role) bool {
	return slices.ContainsFunc(c.Roles, func(r Role) bool { return slices.Contains(any, r) })
}

// Reason is why a call is not let in, in one word.
type Reason string

// The reasons.
const (
	TokenMissing   Reason = "TOKEN_MISSING"
	TokenMalformed Reason = "TOKEN_MALFORMED"
	TokenExpired   Reason = "TOKEN_EXPIRED"
	TokenInvalid   Reason = "TOKEN_INVALID" // wrong signature, unknown key, another algorithm, not our claims
)

// Refusal is the error of a token that is not good. Its detail never repeats the token.
type Refusal struct {
	Reason Reason
	Detail string
}

func (r Refusal) Error() string { return r.Detail }

const (
	maxTokenBytes = 8 << 10
	// MaxTTL is the longest life of a token that Sign makes.
	MaxTTL = 366 * 24 * time.Hour
)

var userPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$`)

// claims are what a token carries: sub, roles, iat and exp.
type claims struct {
	Roles []Role `json:"roles"`
	jwt.RegisteredClaims
}

// Validate is called by the parser, after the signature and the times.
func (c claims) Validate() error { return Caller{User: c.Subject, Roles: c.Roles}.valid() }

func (c Caller) valid() error {
	if !userPattern.MatchString(c.User) {
		return fmt.Errorf("the user %q is not 1 to 128 letters, digits and ._@+-", c.User)
	}
	if len(c.Roles) == 0 {
		return errors.New("there is no role")
	}
	for _, r := range c.Roles {
		if !slices.Contains(Roles, r) {
			return fmt.Errorf("%q is no role: customer, seller, analyst and operator are", r)
		}
	}
	return nil
}

// Bearer is the token of a request.
func Bearer(h http.Header) (string, error) {
	value := h.Get("Authorization")
	if value == "" {
		return "", Refusal{TokenMissing, "the header Authorization: Bearer is missing; `millrace token` makes a token"}
	}
	scheme, token, found := strings.Cut(value, " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", Refusal{TokenMalformed, "the header Authorization is not Bearer and a token"}
	}
	return token, nil
}

// Sign makes a token for a caller. The first one makes the key pair.
func (k *Keys) Sign(c Caller, ttl time.Duration) (string, error) {
	if err := c.valid(); err != nil {
		return "", err
	}
	if ttl <= 0 || ttl > MaxTTL {
		return "", fmt.Errorf("a token lives for more than nothing and at most %v, not %v", MaxTTL, ttl)
	}
	id, private, err := k.signing()
	if err != nil {
		return "", err
	}
	at := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{Roles: c.Roles, RegisteredClaims: jwt.RegisteredClaims{
		Subject: c.User, IssuedAt: jwt.NewNumericDate(at), ExpiresAt: jwt.NewNumericDate(at.Add(ttl)),
	}})
	t.Header["kid"] = id
	return t.SignedString(private)
}

// Verify is who the token says is calling, or a Refusal. A token that was good is good until it expires or the keys
// change: its signature is checked once, because that takes longer than most of what a call does.
func (k *Keys) Verify(token string) (Caller, error) {
	if len(token) > maxTokenBytes {
		return Caller{}, Refusal{TokenMalformed, fmt.Sprintf("the token has %d bytes, at most %d are read", len(token), maxTokenBytes)}
	}
	k.look()
	sum := sha256.Sum256([]byte(token))
	if c, ok := k.verified(sum, time.Now()); ok {
		return c, nil
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, k.keyOf, jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithExpirationRequired())
	if err != nil {
		return Caller{}, refusalOf(err)
	}
	caller := Caller{User: c.Subject, Roles: c.Roles}
	k.keep(sum, good{caller: caller, until: c.ExpiresAt.Time})
	return caller, nil
}

func refusalOf(err error) Refusal {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return Refusal{TokenMalformed, "the token is not three parts of base64 and JSON"}
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return Refusal{TokenInvalid, "the token is not signed by a key of ours"}
	case errors.Is(err, jwt.ErrTokenExpired):
		return Refusal{TokenExpired, "the token has expired"}
	}
	return Refusal{TokenInvalid, "the token's claims are not ours: sub, roles and exp are required"}
}

func (k *Keys) keyOf(t *jwt.Token) (any, error) {
	id, _ := t.Header["kid"].(string)
	return k.public(id)
}
