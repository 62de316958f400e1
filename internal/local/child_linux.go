package local

import "syscall"

// dieWithParent asks the kernel to send sig when the thread that started the child ends; see Process.run.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
