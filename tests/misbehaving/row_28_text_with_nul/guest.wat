;; Answers a text that PostgreSQL cannot hold.
(data (i32.const 0x700) "a\00b")
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $text (i32.const 0x700) (i32.const 3))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
