package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
)

// token is what page and resume tokens hold: where to go on, and a sum over what was asked, so that none is used for
// another question. Clients see base64 and read nothing into it.
type token[P any] struct {
	After P      `json:"a"`
	Asked []byte `json:"q"`
}

func writeToken[P any](after P, asked ...string) string {
	b, err := json.Marshal(token[P]{After: after, Asked: sumOf(asked)})
	if err != nil {
		panic(err) // our own plain values
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// readToken is the reverse. It is false for what is no answer to this question.
func readToken[P any](s string, asked ...string) (after P, ok bool) {
	var t token[P]
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	return t.After, err == nil && bytes.Equal(t.Asked, sumOf(asked))
}

func sumOf(asked []string) []byte {
	f := newFingerprint("token")
	for _, a := range asked {
		f.text(a)
	}
	var sum [sha256.Size]byte
	return f.Sum(sum[:0])[:8]
}

func badPageToken() *refusal {
	return refuse(InvalidPageToken, "the page_token is not from an answer to this question").at("page_token")
}

func badResumeToken() *refusal {
	return refuse(InvalidResumeToken, "the resume_token is not from an answer to this question").at("resume_token")
}
