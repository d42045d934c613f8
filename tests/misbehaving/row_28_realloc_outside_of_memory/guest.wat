;; Tells the host to put the rows where no memory is.
(func $realloc (param i32 i32 i32 i32) (result i32) (i32.const 0x7ffffff8))
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
