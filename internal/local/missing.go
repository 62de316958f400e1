package local

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// MissingError says that a part cannot be fetched or started because this machine lacks something, and what to do
// about it. Its text is one sentence that needs no other context.
type MissingError struct {
	Part string // "Apache Kafka"
	What string // "Java 17 or newer (java is not in PATH)"
	Hint string // "install a JRE, for example apt-get install openjdk-17-jre-headless"
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s cannot run here: missing %s; %s", e.Part, e.What, e.Hint)
}

// wantDisk refuses to begin what would end half-way on a full disk.
func wantDisk(part, dir string, needMB uint64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("disk space of %s: %w", dir, err)
	}
	freeMB := fs.Bavail * uint64(fs.Bsize) >> 20
	if freeMB >= needMB {
		return nil
	}
	return &MissingError{
		Part: part,
		What: fmt.Sprintf("disk space: %d MB of %d MB are free in %s", freeMB, needMB, dir),
		Hint: "free some, or name another folder (--data for data, MILLRACE_CACHE for fetched parts)",
	}
}

// glibcLoader is the dynamic loader that every glibc system on x86-64 has at this path; musl systems do not.
const glibcLoader = "/lib64/ld-linux-x86-64.so.2"

const elsewhere = "run it elsewhere (docker-compose.yml has the image) and name its address"

// wantLinux is for what runs anywhere: its processes are kept track of in /proc.
func wantLinux(part string) error {
	if runtime.GOOS == "linux" {
		return nil
	}
	return &MissingError{Part: part, What: "Linux (this is " + runtime.GOOS + ")", Hint: elsewhere}
}

func wantLinuxGlibc(part string) error {
	if platform := runtime.GOOS + "/" + runtime.GOARCH; platform != "linux/amd64" {
		return &MissingError{Part: part, What: "a build for " + platform + " (the package is for linux/amd64)", Hint: elsewhere}
	}
	if _, err := os.Stat(glibcLoader); err != nil {
		return &MissingError{Part: part, What: "glibc (there is no " + glibcLoader + ")", Hint: elsewhere}
	}
	return nil
}
