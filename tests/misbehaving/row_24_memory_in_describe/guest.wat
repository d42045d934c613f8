;; Takes its memory before anybody has asked for a row.
(func $describe (result i32) (loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
