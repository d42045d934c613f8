;; Answers a text of 2 GB that begins in its memory.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $text (i32.const 0x700) (i32.const 0x7fffffff))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
