package main

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// mounted tells whether something is mounted at a path.
func mounted(path string) (bool, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == path {
			return true, nil
		}
	}
	return false, nil
}

// bind makes a folder appear at a path; it is there already when it is asked for twice.
func bind(from, path string, readOnly bool) error {
	if there, err := mounted(path); there || err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	if err := syscall.Mount(from, path, "", syscall.MS_BIND, ""); err != nil || !readOnly {
		return err
	}
	return syscall.Mount("", path, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")
}

// unbind undoes it, also when there is nothing to undo.
func unbind(path string) error {
	if there, err := mounted(path); err != nil {
		return err
	} else if there {
		if err := syscall.Unmount(path, 0); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
