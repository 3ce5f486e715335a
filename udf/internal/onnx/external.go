package onnx

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed means that bytes are not a message of ONNX's.
var ErrMalformed = errors.New("not an ONNX file")

// message is what has to be known of one of ONNX's messages to find every tensor in it: which fields are messages
// that can hold tensors. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
type message struct {
	fields   map[protowire.Number]*message
	isTensor bool
}

// The fields of TensorProto that place its values in another file.
const (
	externalData = 13
	dataLocation = 14
)

var modelMessage = func() *message {
	tensor := &message{isTensor: true}
	sparse := &message{fields: map[protowire.Number]*message{1: tensor, 2: tensor}}
	graph, attribute := &message{}, &message{}
	node := &message{fields: map[protowire.Number]*message{5: attribute}}
	attribute.fields = map[protowire.Number]*message{5: tensor, 6: graph, 10: tensor, 11: graph, 22: sparse, 23: sparse}
	graph.fields = map[protowire.Number]*message{1: node, 5: tensor, 15: sparse}
	function := &message{fields: map[protowire.Number]*message{7: node, 11: attribute}}
	training := &message{fields: map[protowire.Number]*message{1: graph, 2: graph}}
	return &message{fields: map[protowire.Number]*message{7: graph, 20: training, 25: function}}
}()

// maxDepth is protobuf's own bound on messages in messages.
const maxDepth = 100

// External tells whether a tensor of a model has its values in another file. ONNX Runtime would read that, wherever it lies.
func External(model []byte) (bool, error) {
	return modelMessage.external(model, maxDepth)
}

func (m *message) external(b []byte, depth int) (bool, error) {
	if depth == 0 {
		return false, ErrMalformed
	}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false, ErrMalformed
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return false, ErrMalformed
		}
		value := b[n : n+size]
		b = b[n+size:]
		if m.isTensor && (number == externalData || number == dataLocation && (len(value) != 1 || value[0] != 0)) {
			return true, nil
		}
		if inner := m.fields[number]; inner != nil && kind == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(value)
			if found, err := inner.external(content, depth-1); found || err != nil {
				return found, err
			}
		}
	}
	return false, nil
}
