// SPDX-License-Identifier: GPL-3.0-or-later

package queue

// A list is a doubly linked list of nodes, cut into blocks of neighbours. A block knows how many nodes it holds. So a position is
// cheap to count, and a push, pop or cancel changes the count of one block only.
type list struct {
	head, tail ref // nodes
	last       ref // block
	len        int
}

// A ref is an index into a slab; 0 is none. With indices instead of pointers a deep queue takes few cache lines, and the garbage
// collector need not follow them.
type ref uint32

type node struct {
	prev, next, block ref
	generation        uint32 // of the slot: a ticket of another generation is stale
}

type block struct {
	prev, next ref
	count      int32
	level      int32
}

// blockSize balances the two loops of rank in deep queues: the one within a block and the one over blocks.
const blockSize = 512

// A line holds the lists of both priorities and the slabs they live in. Freed slots are kept, linked by next.
type line struct {
	nodes     []node
	blocks    []block
	lists     [levels]list
	freeNode  ref
	freeBlock ref
}

func newLine() line {
	return line{nodes: make([]node, 1), blocks: make([]block, 1)}
}

func (s *line) level(n ref) int { return int(s.blocks[s.nodes[n].block].level) }

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

func (s *line) pushBack(level int, n ref) {
	l := &s.lists[level]
	if l.last == 0 || s.blocks[l.last].count == blockSize {
		s.addBlock(level)
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

// drop takes n out of its list and frees its slot. The slot's ticket is stale then.
func (s *line) drop(n ref) {
	x := &s.nodes[n]
	l := &s.lists[s.level(n)]
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
func (s *line) addBlock(level int) {
	l := &s.lists[level]
	b := s.freeBlock
	if b == 0 {
		s.blocks = append(s.blocks, block{})
		b = ref(len(s.blocks) - 1)
	} else {
		s.freeBlock = s.blocks[b].next
	}
	s.blocks[b] = block{prev: l.last, level: int32(level)}
	if l.last != 0 {
		s.blocks[l.last].next = b
	}
	l.last = b
}

func (s *line) dropBlock(l *list, b ref) {
	x := s.blocks[b]
	if x.prev != 0 {
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
