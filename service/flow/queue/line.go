// SPDX-License-Identifier: GPL-3.0-or-later

package queue

// A list is a doubly linked line of nodes, cut into blocks of neighbours that know how many they hold. Blocks make a
// position cheap to count without making a change of the line dearer: a push, pop or cancel touches one block's count.
type list struct {
	head, tail  ref // nodes
	first, last ref // blocks
	len         int
}

// A ref is an index into a slab; 0 is none. Indices in place of pointers keep a deep queue in few cache lines and out of
// the garbage collector's sight.
type ref uint32

type node struct {
	prev, next, block ref
	generation        uint32 // of the slot: a ticket of another generation is stale
}

type block struct {
	prev, next ref
	count      int32
	lane       int32
}

// blockSize balances the two halves of rank in deep queues: steps within a block against steps over blocks.
const blockSize = 512

// A line holds the lists of both priorities and the slabs they live in. Freed slots are kept, linked by next.
type line struct {
	nodes     []node
	blocks    []block
	lists     [lanes]list
	freeNode  ref
	freeBlock ref
}

func newLine() line {
	return line{nodes: make([]node, 1), blocks: make([]block, 1)}
}

func (s *line) lane(n ref) int { return int(s.blocks[s.nodes[n].block].lane) }

// rank counts the nodes before n in its list.
func (s *line) rank(n ref) int {
	rank, at := 0, s.nodes[n].block
	for m := s.nodes[n].prev; m != 0 && s.nodes[m].block == at; m = s.nodes[m].prev {
		rank++
	}
	for b := s.blocks[at].prev; b != 0; b = s.blocks[b].prev {
		rank += int(s.blocks[b].count)
	}
	return rank
}

// take returns a free slot, to be put into a list.
func (s *line) take() ref {
	n := s.freeNode
	if n == 0 {
		s.nodes = append(s.nodes, node{})
		n = ref(len(s.nodes) - 1)
	} else {
		s.freeNode = s.nodes[n].next
	}
	s.nodes[n].generation++
	return n
}

func (s *line) pushBack(lane int, n ref) {
	l := &s.lists[lane]
	if l.last == 0 || s.blocks[l.last].count == blockSize {
		s.addBlock(lane)
	}
	s.blocks[l.last].count++
	x := &s.nodes[n]
	x.prev, x.next, x.block = l.tail, 0, l.last
	if l.tail == 0 {
		l.head = n
	} else {
		s.nodes[l.tail].next = n
	}
	l.tail = n
	l.len++
}

// drop takes n out of its list and frees its slot, which makes the tickets of this generation stale.
func (s *line) drop(n ref) {
	x := &s.nodes[n]
	l := &s.lists[s.lane(n)]
	if x.prev == 0 {
		l.head = x.next
	} else {
		s.nodes[x.prev].next = x.next
	}
	if x.next == 0 {
		l.tail = x.prev
	} else {
		s.nodes[x.next].prev = x.prev
	}
	l.len--
	b := &s.blocks[x.block]
	if b.count--; b.count == 0 {
		s.dropBlock(l, x.block)
	}
	x.prev, x.next, x.block = 0, s.freeNode, 0
	x.generation++
	s.freeNode = n
}

// addBlock puts an empty block at the end of a list.
func (s *line) addBlock(lane int) {
	l := &s.lists[lane]
	b := s.freeBlock
	if b == 0 {
		s.blocks = append(s.blocks, block{})
		b = ref(len(s.blocks) - 1)
	} else {
		s.freeBlock = s.blocks[b].next
	}
	s.blocks[b] = block{prev: l.last, lane: int32(lane)}
	if l.last == 0 {
		l.first = b
	} else {
		s.blocks[l.last].next = b
	}
	l.last = b
}

func (s *line) dropBlock(l *list, b ref) {
	x := s.blocks[b]
	if x.prev == 0 {
		l.first = x.next
	} else {
		s.blocks[x.prev].next = x.next
	}
	if x.next == 0 {
		l.last = x.prev
	} else {
		s.blocks[x.next].prev = x.prev
	}
	s.blocks[b] = block{next: s.freeBlock}
	s.freeBlock = b
}
