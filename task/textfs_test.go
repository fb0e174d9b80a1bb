package task

import (
	"io/fs"
	"testing/fstest"
)

// textFS is a folder with one migration.
func textFS(text string) fs.FS { return fstest.MapFS{"0001_item.sql": {Data: []byte(text)}} }
