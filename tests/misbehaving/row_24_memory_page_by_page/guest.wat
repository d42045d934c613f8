;; Takes memory page by page and writes to each.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32) (local $at i32)
  (loop $more
    (local.set $at (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
    (memory.fill (local.get $at) (i32.const 1) (i32.const 65536))
    (br $more))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
