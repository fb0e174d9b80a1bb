package blueprint

import (
	"testing"
	"time"
)

func TestFollowingLeavesMostOfARateLimit(t *testing.T) {
	t.Parallel()
	var p Pace
	if first := p.next(); first > 300*time.Millisecond {
		t.Errorf("the first wait is %s, and what is quick is told late", first)
	}
	asked := 1
	for gone := time.Duration(0); gone < time.Minute; gone += p.next() {
		asked++
	}
	if asked > 40 {
		t.Errorf("it asks %d times in its first minute, of 100 that a user may", asked)
	}
	if later := p.next(); later != 2*time.Second {
		t.Errorf("later it waits %s, want 2s", later)
	}
}
