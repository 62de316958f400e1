package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// health asks the API by gRPC's health protocol whether it serves.
func health(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/grpc.health.v1.Health/Check", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer struct {
		Status string `json:"status"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if !strings.HasSuffix(answer.Status, "SERVING") || strings.Contains(answer.Status, "NOT") {
		return errors.New("health is " + answer.Status)
	}
	return nil
}
