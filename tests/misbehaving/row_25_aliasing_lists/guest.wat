;; A thousand texts of 1 MB that are all the same bytes.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32) (local $row i32)
  (call $text (i32.const 0) (i32.const 1000000))
  (memory.fill (i32.const 0x20000) (i32.const 120) (i32.const 1000000))
  (call $text (i32.const 0x20000) (i32.const 1000000))
  (loop $more
    (call $output (i32.add (i32.const 0x8000) (i32.mul (local.get $row) (i32.const 12))) (i32.const 0) (global.get $values) (i32.const 2))
    (local.set $row (i32.add (local.get $row) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $row) (i32.const 1000))))
  (call $results (local.get $count) (i32.const 0x8000) (i32.const 1000)))
