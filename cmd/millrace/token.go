package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/api/auth"
	"github.com/millrace/millrace/internal/local"
)

// defaultTokenTTL is a working day and the night after it.
const defaultTokenTTL = 24 * time.Hour

func tokenCommand() *cobra.Command {
	var user, role, data string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "token --user USER --role ROLE",
		Short:   "Print a token for the API, signed with the key in the data folder",
		Example: "  curl -H \"Authorization: Bearer $(millrace token --user ada --role customer)\" ...",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := signToken(data, user, role, ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&user, "user", "", "who it is for: letters, digits and ._@+-; a seller's is the seller_id of their offers")
	f.StringVar(&role, "role", string(auth.Customer), "customer, seller, analyst or operator")
	f.DurationVar(&ttl, "ttl", defaultTokenTTL, "how long it is good")
	dataFlag(f, &data, "the data folder; unset: the user's own")
	if err := cmd.MarkFlagRequired("user"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// mintToken is a token for a call of our own.
func mintToken(data, user, role string) (string, error) {
	return signToken(data, user, role, defaultTokenTTL)
}

func signToken(data, user, role string, ttl time.Duration) (string, error) {
	if !slices.Contains(auth.Roles, auth.Role(role)) {
		return "", usageError(fmt.Sprintf("%q is no role: customer, seller, analyst and operator are", role))
	}
	dir, err := keysFolder(data)
	if err != nil {
		return "", err
	}
	keys, err := auth.Open(dir)
	if err != nil {
		return "", err
	}
	return keys.Sign(auth.Caller{User: user, Roles: []auth.Role{auth.Role(role)}}, ttl)
}

// keysFolder is where the keys of a data folder are; "" is the user's own.
func keysFolder(data string) (string, error) {
	if data == "" {
		var err error
		if data, err = local.DataDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(data, "keys"), nil
}
