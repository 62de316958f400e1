//go:build !linux

package local

import "syscall"

// dieWithParent is Linux's own; elsewhere orphans are ended at the next start only.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
