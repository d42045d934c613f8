;; Answers a text of 20 MiB that is really there.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (if (i32.lt_u (memory.size) (i32.const 344)) (then (drop (memory.grow (i32.const 320)))))
  (memory.fill (i32.const 0x180000) (i32.const 120) (i32.const 0x1400000))
  (call $text (i32.const 0x180000) (i32.const 0x1400000))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
