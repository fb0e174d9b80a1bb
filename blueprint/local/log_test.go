package local

import "testing"

func TestAChangeWakesOnlyThoseWhoWaitForIt(t *testing.T) {
	t.Parallel()
	rung := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	var b broadcast
	one, oneDone := b.wait("one")
	again, againDone := b.wait("one")
	two, twoDone := b.wait("two")
	b.ring("one")
	b.ring("nobody's")
	if !rung(one) || !rung(again) || rung(two) {
		t.Errorf("a change of one build woke %t, %t of it and %t of another", rung(one), rung(again), rung(two))
	}
	next, nextDone := b.wait("one")
	oneDone()
	againDone()
	b.ring("one")
	if !rung(next) {
		t.Error("who waits again is not woken")
	}
	nextDone()
	twoDone()
	if len(b.next) != 0 {
		t.Errorf("%d builds are remembered though nobody waits", len(b.next))
	}
}
