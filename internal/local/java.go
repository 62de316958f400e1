package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	javaOldest = 17
	javaHint   = "install one, for example: apt-get install openjdk-17-jre-headless"
)

// java is a Java runtime that is new enough.
type java struct {
	path   string
	banner string // what -version prints: a class archive is good for exactly this one
}

// findJava looks where Kafka's own scripts look: in JAVA_HOME, then in PATH.
func findJava(ctx context.Context) (java, error) {
	path, err := javaPath()
	if err != nil {
		return java{}, &MissingError{Part: kafkaPart, What: fmt.Sprintf("Java %d or newer (no java in PATH or JAVA_HOME)", javaOldest), Hint: javaHint}
	}
	banner, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return java{}, fmt.Errorf("%s -version: %w", path, err)
	}
	if v := javaVersion(string(banner)); v < javaOldest {
		return java{}, &MissingError{Part: kafkaPart, What: fmt.Sprintf("Java %d or newer (%s is Java %d)", javaOldest, path, v), Hint: javaHint}
	}
	return java{path: path, banner: string(banner)}, nil
}

func javaPath() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		if path := filepath.Join(home, "bin", "java"); exists(path) {
			return path, nil
		}
	}
	return exec.LookPath("java")
}

var javaVersionText = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// javaVersion is the feature version in the text of java -version, 8 for "1.8.0_402", or 0 when there is none.
func javaVersion(banner string) int {
	match := javaVersionText.FindStringSubmatch(banner)
	if match == nil {
		return 0
	}
	v, _ := strconv.Atoi(match[1]) // the pattern lets only digits through
	return v
}
